-- Cases move only along compliance/anomalies/models.py and stay about whom they are; notes are appended only; findings
-- only grow. None of them is ever deleted (refuse_change comes with the ledger).
CREATE OR REPLACE FUNCTION anomaly_case_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'cases are kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.version <> OLD.version + 1 THEN
    RAISE EXCEPTION 'a step of a case moves its version by one' USING ERRCODE = 'restrict_violation';
  END IF;
  IF NOT (OLD.state = 'open' AND NEW.state = 'assigned' OR
      OLD.state = 'assigned' AND NEW.state IN ('assigned', 'decided') OR
      OLD.state = 'decided' AND NEW.state IN ('closed', 'open') OR
      OLD.state = 'closed' AND NEW.state = 'open') THEN
    RAISE EXCEPTION 'case cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
  END IF;
  IF (NEW.hospital, NEW.person_id, NEW.opened_by_id, NEW.opened_at)
      IS DISTINCT FROM (OLD.hospital, OLD.person_id, OLD.opened_by_id, OLD.opened_at) THEN
    RAISE EXCEPTION 'whom a case is about does not change' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_anomalycase_guard ON compliance_anomalycase;
CREATE TRIGGER compliance_anomalycase_guard BEFORE UPDATE OR DELETE ON compliance_anomalycase
  FOR EACH ROW EXECUTE FUNCTION anomaly_case_guard();
ALTER TABLE compliance_anomalycase ENABLE ALWAYS TRIGGER compliance_anomalycase_guard;

CREATE OR REPLACE FUNCTION anomaly_finding_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'findings are kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.weight < OLD.weight OR OLD.case_id IS NOT NULL AND NEW.case_id IS DISTINCT FROM OLD.case_id OR
      (NEW.rule, NEW.person_id, NEW.patient_reference, NEW.start, NEW."end", NEW.hospital)
        IS DISTINCT FROM (OLD.rule, OLD.person_id, OLD.patient_reference, OLD.start, OLD."end", OLD.hospital) THEN
    RAISE EXCEPTION 'a finding only grows' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_anomalyfinding_guard ON compliance_anomalyfinding;
CREATE TRIGGER compliance_anomalyfinding_guard BEFORE UPDATE OR DELETE ON compliance_anomalyfinding
  FOR EACH ROW EXECUTE FUNCTION anomaly_finding_guard();
ALTER TABLE compliance_anomalyfinding ENABLE ALWAYS TRIGGER compliance_anomalyfinding_guard;

DROP TRIGGER IF EXISTS compliance_anomalycasenote_keep ON compliance_anomalycasenote;
CREATE TRIGGER compliance_anomalycasenote_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON compliance_anomalycasenote
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_anomalycasenote ENABLE ALWAYS TRIGGER compliance_anomalycasenote_keep;

DROP TRIGGER IF EXISTS compliance_anomalycase_no_truncate ON compliance_anomalycase;
CREATE TRIGGER compliance_anomalycase_no_truncate BEFORE TRUNCATE ON compliance_anomalycase
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_anomalycase ENABLE ALWAYS TRIGGER compliance_anomalycase_no_truncate;
DROP TRIGGER IF EXISTS compliance_anomalyfinding_no_truncate ON compliance_anomalyfinding;
CREATE TRIGGER compliance_anomalyfinding_no_truncate BEFORE TRUNCATE ON compliance_anomalyfinding
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_anomalyfinding ENABLE ALWAYS TRIGGER compliance_anomalyfinding_no_truncate;
