-- Evidence is append-only for everybody, the table's owner included (refuse_change comes with the ledger).
DROP TRIGGER IF EXISTS compliance_event_append_only ON compliance_event;
CREATE TRIGGER compliance_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON compliance_event
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_event ENABLE ALWAYS TRIGGER compliance_event_append_only;
