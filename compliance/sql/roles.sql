-- The role as which web processes, workers and nodes connect: it works with all tables, and of the evidence log it reads the
-- tables and may only call the functions that append. The owner of the tables runs migrations and this file, and nothing
-- else connects as it. By hand: CREATE ROLE fdrouter_app LOGIN PASSWORD '...'; then `manage.py log grants fdrouter_app`,
-- again after each migration. The command puts the role's name in the place of fdrouter_app.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO fdrouter_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO fdrouter_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO fdrouter_app;

REVOKE ALL ON compliance_event, compliance_eventkey, compliance_pending, compliance_leaf, compliance_tile,
  compliance_checkpoint, compliance_cosignature, compliance_witnessed, django_migrations FROM fdrouter_app;
GRANT SELECT ON compliance_event, compliance_eventkey, compliance_pending, compliance_leaf, compliance_tile,
  compliance_checkpoint, compliance_cosignature, compliance_witnessed, django_migrations TO fdrouter_app;
REVOKE ALL ON SEQUENCE compliance_event_seq_seq FROM fdrouter_app;

-- Functions that run as the owner are for this role alone.
DO $$ DECLARE name regprocedure; BEGIN
  FOR name IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO fdrouter_app', name);
  END LOOP;
END $$;
