-- Access reviews end once, their lines are decided once, and what either began with stays; none is ever deleted
-- (refuse_change comes with the ledger).
CREATE OR REPLACE FUNCTION access_review_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR OLD.state <> 'open' OR NEW.state = 'open' THEN
    RAISE EXCEPTION 'an access review ends once, and is kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF (NEW.id, NEW.hospital, NEW.department, NEW.started_by_id, NEW.started_at, NEW.due)
      IS DISTINCT FROM (OLD.id, OLD.hospital, OLD.department, OLD.started_by_id, OLD.started_at, OLD.due) THEN
    RAISE EXCEPTION 'what an access review covers does not change' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_accessreview_guard ON compliance_accessreview;
CREATE TRIGGER compliance_accessreview_guard BEFORE UPDATE OR DELETE ON compliance_accessreview
  FOR EACH ROW EXECUTE FUNCTION access_review_guard();
ALTER TABLE compliance_accessreview ENABLE ALWAYS TRIGGER compliance_accessreview_guard;

CREATE OR REPLACE FUNCTION access_review_line_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR OLD.state <> 'open' OR NEW.state = 'open' THEN
    RAISE EXCEPTION 'a line is decided once, and is kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF (to_jsonb(NEW) - '{state,reason,decided_by_id,decided_at}'::text[])
      IS DISTINCT FROM (to_jsonb(OLD) - '{state,reason,decided_by_id,decided_at}'::text[]) THEN
    RAISE EXCEPTION 'a line keeps the post as it was' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_accessreviewline_guard ON compliance_accessreviewline;
CREATE TRIGGER compliance_accessreviewline_guard BEFORE UPDATE OR DELETE ON compliance_accessreviewline
  FOR EACH ROW EXECUTE FUNCTION access_review_line_guard();
ALTER TABLE compliance_accessreviewline ENABLE ALWAYS TRIGGER compliance_accessreviewline_guard;

DROP TRIGGER IF EXISTS compliance_accessreview_no_truncate ON compliance_accessreview;
CREATE TRIGGER compliance_accessreview_no_truncate BEFORE TRUNCATE ON compliance_accessreview
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_accessreview ENABLE ALWAYS TRIGGER compliance_accessreview_no_truncate;
DROP TRIGGER IF EXISTS compliance_accessreviewline_no_truncate ON compliance_accessreviewline;
CREATE TRIGGER compliance_accessreviewline_no_truncate BEFORE TRUNCATE ON compliance_accessreviewline
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_accessreviewline ENABLE ALWAYS TRIGGER compliance_accessreviewline_no_truncate;
