-- Applied limits are history, and a wish is decided once and by the row's own rules.

DROP TRIGGER IF EXISTS privacy_limitdocument_append_only ON privacy_limitdocument;
CREATE TRIGGER privacy_limitdocument_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON privacy_limitdocument
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE privacy_limitdocument ENABLE ALWAYS TRIGGER privacy_limitdocument_append_only;

CREATE OR REPLACE FUNCTION grant_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state <> 'requested' OR NEW.state NOT IN ('approved', 'denied')
     OR (NEW.id, NEW.scope_id, NEW.amount, NEW.reason, NEW.period, NEW.requested_by, NEW.requested_at)
        IS DISTINCT FROM (OLD.id, OLD.scope_id, OLD.amount, OLD.reason, OLD.period, OLD.requested_by, OLD.requested_at)
     OR NEW.source_id IS DISTINCT FROM OLD.source_id THEN
    RAISE EXCEPTION 'a grant is decided once and not changed' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS privacy_quotagrant_decided_once ON privacy_quotagrant;
CREATE TRIGGER privacy_quotagrant_decided_once BEFORE UPDATE ON privacy_quotagrant
  FOR EACH ROW EXECUTE FUNCTION grant_refuse_change();
DROP TRIGGER IF EXISTS privacy_quotagrant_kept ON privacy_quotagrant;
CREATE TRIGGER privacy_quotagrant_kept BEFORE DELETE OR TRUNCATE ON privacy_quotagrant
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE privacy_quotagrant ENABLE ALWAYS TRIGGER privacy_quotagrant_decided_once;
ALTER TABLE privacy_quotagrant ENABLE ALWAYS TRIGGER privacy_quotagrant_kept;
