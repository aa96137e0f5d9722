-- A report keeps what was frozen and what was finished, and moves only along compliance/models.py.
CREATE OR REPLACE FUNCTION report_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'reports are kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state IN ('done', 'failed') THEN
    RAISE EXCEPTION 'a report that ended does not change' USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> NEW.state AND NOT (
      OLD.state = 'queued' AND NEW.state IN ('rendering', 'failed') OR
      OLD.state = 'rendering' AND NEW.state IN ('done', 'failed')) THEN
    RAISE EXCEPTION 'report cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
  END IF;
  IF OLD.facts IS NOT NULL AND
      (NEW.facts IS DISTINCT FROM OLD.facts OR NEW.facts_sha256 <> OLD.facts_sha256
        OR NEW.attached IS DISTINCT FROM OLD.attached) OR
      (NEW.hospital, NEW.kind, NEW.start, NEW."end", NEW.requested_by_id)
        IS DISTINCT FROM (OLD.hospital, OLD.kind, OLD.start, OLD."end", OLD.requested_by_id) THEN
    RAISE EXCEPTION 'the facts of a report are frozen' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_report_guard ON compliance_report;
CREATE TRIGGER compliance_report_guard BEFORE UPDATE OR DELETE ON compliance_report
  FOR EACH ROW EXECUTE FUNCTION report_guard();
ALTER TABLE compliance_report ENABLE ALWAYS TRIGGER compliance_report_guard;
DROP TRIGGER IF EXISTS compliance_report_no_truncate ON compliance_report;
CREATE TRIGGER compliance_report_no_truncate BEFORE TRUNCATE ON compliance_report
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_report ENABLE ALWAYS TRIGGER compliance_report_no_truncate;
