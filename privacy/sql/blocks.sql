-- What a block was opened with is frozen, a retired block stays retired, and none goes away: for everybody, the table's
-- owner included.
CREATE OR REPLACE FUNCTION refuse_other_block() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'block % is frozen', OLD.key USING ERRCODE = 'restrict_violation';
END $$;

DROP TRIGGER IF EXISTS privacy_block_frozen ON privacy_scope;
CREATE TRIGGER privacy_block_frozen BEFORE UPDATE ON privacy_scope FOR EACH ROW
  WHEN (OLD.kind = 'block' AND ((NEW.kind, NEW.key, NEW.unit, NEW.cap, NEW.epsilon, NEW.delta, NEW.alpha)
        IS DISTINCT FROM (OLD.kind, OLD.key, OLD.unit, OLD.cap, OLD.epsilon, OLD.delta, OLD.alpha)
    OR (OLD.retired_at IS NOT NULL AND NEW.retired_at IS DISTINCT FROM OLD.retired_at)))
  EXECUTE FUNCTION refuse_other_block();
ALTER TABLE privacy_scope ENABLE ALWAYS TRIGGER privacy_block_frozen;

DROP TRIGGER IF EXISTS privacy_block_stays ON privacy_scope;
CREATE TRIGGER privacy_block_stays BEFORE DELETE ON privacy_scope FOR EACH ROW
  WHEN (OLD.kind = 'block') EXECUTE FUNCTION refuse_other_block();
ALTER TABLE privacy_scope ENABLE ALWAYS TRIGGER privacy_block_stays;

DROP TRIGGER IF EXISTS privacy_curve_append_only ON privacy_curve;
CREATE TRIGGER privacy_curve_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON privacy_curve
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE privacy_curve ENABLE ALWAYS TRIGGER privacy_curve_append_only;
