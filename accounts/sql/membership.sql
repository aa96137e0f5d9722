-- A change of a post moves its version, whoever makes it and however: admission refuses decisions made for an older
-- one, so a cached role must never outlive the post it came from.
CREATE OR REPLACE FUNCTION membership_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.version := OLD.version + 1;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS accounts_membership_version ON accounts_membership;
CREATE TRIGGER accounts_membership_version BEFORE UPDATE ON accounts_membership FOR EACH ROW
  WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION membership_next_version();
