-- A delivery stays what it was made for, and moves only along compliance/schedules/models.py; none is ever deleted.
CREATE OR REPLACE FUNCTION report_delivery_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'deliveries of reports are kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state IN ('sent', 'failed') THEN
    RAISE EXCEPTION 'a delivery that ended does not change' USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> NEW.state AND NOT (
      OLD.state = 'waiting' AND NEW.state IN ('sending', 'failed') OR
      OLD.state = 'sending' AND NEW.state IN ('waiting', 'sent', 'failed')) THEN
    RAISE EXCEPTION 'delivery cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
  END IF;
  IF (NEW.schedule_id, NEW.report_id, NEW.start, NEW."end")
      IS DISTINCT FROM (OLD.schedule_id, OLD.report_id, OLD.start, OLD."end") THEN
    RAISE EXCEPTION 'a delivery is of one report' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_reportdelivery_guard ON compliance_reportdelivery;
CREATE TRIGGER compliance_reportdelivery_guard BEFORE UPDATE OR DELETE ON compliance_reportdelivery
  FOR EACH ROW EXECUTE FUNCTION report_delivery_guard();
ALTER TABLE compliance_reportdelivery ENABLE ALWAYS TRIGGER compliance_reportdelivery_guard;
DROP TRIGGER IF EXISTS compliance_reportdelivery_no_truncate ON compliance_reportdelivery;
CREATE TRIGGER compliance_reportdelivery_no_truncate BEFORE TRUNCATE ON compliance_reportdelivery
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_reportdelivery ENABLE ALWAYS TRIGGER compliance_reportdelivery_no_truncate;
