-- The privacy ledger in the log: every movement of a budget is evidence, whoever makes it, in its own transaction. Sums of
-- `ledger` over the log's entries are what the budgets say is used. Requests are allowances, not privacy: left out.
CREATE OR REPLACE FUNCTION log_entries() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO compliance_event (at, kind, outcome, details)
    SELECT clock_timestamp(), 'ledger.entries', 'ok', jsonb_build_object('ledger', jsonb_agg(jsonb_build_object(
      'key', s.key, 'unit', s.unit, 'amount', a.amount, 'reservation', a.reservation_id, 'why', a.kind) ORDER BY a.seq))
    FROM added a JOIN privacy_scope s ON s.id = a.scope_id WHERE s.unit <> 'requests' HAVING count(*) > 0;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS privacy_entry_in_log ON privacy_entry;
CREATE TRIGGER privacy_entry_in_log AFTER INSERT ON privacy_entry REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION log_entries();
ALTER TABLE privacy_entry ENABLE ALWAYS TRIGGER privacy_entry_in_log;
