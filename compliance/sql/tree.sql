-- The log's only ways in, and what keeps the tree over it whole. Every function runs as the owner of the tables, so that
-- a role that may do nothing but call them can write the log and change none of it. CREATE OR REPLACE throughout.

-- An event waits for its place in the tree from the transaction on that writes it.
CREATE OR REPLACE FUNCTION log_await() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO compliance_pending (seq) SELECT seq FROM added;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS compliance_event_awaits ON compliance_event;
CREATE TRIGGER compliance_event_awaits AFTER INSERT ON compliance_event REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION log_await();
ALTER TABLE compliance_event ENABLE ALWAYS TRIGGER compliance_event_awaits;

-- Events from before there was a tree.
INSERT INTO compliance_pending (seq) SELECT seq FROM compliance_event e
  WHERE NOT EXISTS (SELECT FROM compliance_leaf l WHERE l.event = e.seq) ON CONFLICT DO NOTHING;

-- A row stays forever where nothing at all may change ...
DO $$ DECLARE name text; BEGIN
  FOREACH name IN ARRAY ARRAY['leaf', 'checkpoint', 'cosignature', 'witnessed'] LOOP
    EXECUTE format('DROP TRIGGER IF EXISTS compliance_%1$s_append_only ON compliance_%1$s;
      CREATE TRIGGER compliance_%1$s_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON compliance_%1$s
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
      ALTER TABLE compliance_%1$s ENABLE ALWAYS TRIGGER compliance_%1$s_append_only;', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['tile', 'eventkey'] LOOP
    EXECUTE format('DROP TRIGGER IF EXISTS compliance_%1$s_kept ON compliance_%1$s;
      CREATE TRIGGER compliance_%1$s_kept BEFORE DELETE OR TRUNCATE ON compliance_%1$s
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
      ALTER TABLE compliance_%1$s ENABLE ALWAYS TRIGGER compliance_%1$s_kept;', name);
  END LOOP;
END $$;

-- ... a tile grows, and what it holds stays its beginning ...
CREATE OR REPLACE FUNCTION log_tile_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF octet_length(NEW.hashes) NOT BETWEEN 32 AND 8192 OR octet_length(NEW.hashes) % 32 <> 0 THEN
    RAISE EXCEPTION 'a tile holds 1 to 256 hashes' USING ERRCODE = 'check_violation';
  END IF;
  IF TG_OP = 'UPDATE' THEN
    IF (NEW.level, NEW.index) <> (OLD.level, OLD.index) OR octet_length(NEW.hashes) <= octet_length(OLD.hashes)
        OR substring(NEW.hashes FROM 1 FOR octet_length(OLD.hashes)) <> OLD.hashes THEN
      RAISE EXCEPTION 'table compliance_tile is append-only: a tile only grows' USING ERRCODE = 'restrict_violation';
    END IF;
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_tile_grows ON compliance_tile;
CREATE TRIGGER compliance_tile_grows BEFORE INSERT OR UPDATE ON compliance_tile
  FOR EACH ROW EXECUTE FUNCTION log_tile_grows();
ALTER TABLE compliance_tile ENABLE ALWAYS TRIGGER compliance_tile_grows;

-- ... a key is destroyed once ...
CREATE OR REPLACE FUNCTION log_key_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.event <> OLD.event OR OLD.key IS NULL OR NEW.key IS NOT NULL OR NEW.destroyed_at IS NULL THEN
    RAISE EXCEPTION 'table compliance_eventkey is append-only: a key is destroyed, once'
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS compliance_eventkey_ends ON compliance_eventkey;
CREATE TRIGGER compliance_eventkey_ends BEFORE UPDATE ON compliance_eventkey
  FOR EACH ROW EXECUTE FUNCTION log_key_ends();
ALTER TABLE compliance_eventkey ENABLE ALWAYS TRIGGER compliance_eventkey_ends;

-- ... and an event stops waiting when it has its place.
CREATE OR REPLACE FUNCTION log_waits_no_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM gone WHERE NOT EXISTS (SELECT FROM compliance_leaf l WHERE l.event = gone.seq)) THEN
    RAISE EXCEPTION 'table compliance_pending is append-only until its event has a leaf'
      USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS compliance_pending_sequenced ON compliance_pending;
CREATE TRIGGER compliance_pending_sequenced AFTER DELETE ON compliance_pending REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION log_waits_no_more();
ALTER TABLE compliance_pending ENABLE ALWAYS TRIGGER compliance_pending_sequenced;
DROP TRIGGER IF EXISTS compliance_pending_kept ON compliance_pending;
CREATE TRIGGER compliance_pending_kept BEFORE UPDATE OR TRUNCATE ON compliance_pending
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE compliance_pending ENABLE ALWAYS TRIGGER compliance_pending_kept;

-- Appends a JSON array of events, in its order, in the caller's transaction. Returns their numbers. `sealed`,
-- `commitment` and `key` (base64) come together or not at all.
CREATE OR REPLACE FUNCTION log_append(events jsonb) RETURNS SETOF bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  RETURN QUERY WITH given AS (
    SELECT * FROM ROWS FROM (jsonb_to_recordset(events) AS (kind text, outcome text, actor_id bigint, subject uuid,
      hospital text, department text, purpose text, details jsonb, sealed text, commitment text, key text))
      WITH ORDINALITY AS e(kind, outcome, actor_id, subject, hospital, department, purpose, details, sealed, commitment,
        key, n)
  ), written AS (
    INSERT INTO compliance_event (at, kind, outcome, actor_id, subject, hospital, department, purpose, details, sealed,
        commitment)
      SELECT clock_timestamp(), given.kind, given.outcome, given.actor_id, given.subject, given.hospital,
        given.department, given.purpose, given.details, decode(given.sealed, 'base64'),
        decode(given.commitment, 'base64') FROM given ORDER BY n
      RETURNING compliance_event.seq, compliance_event.commitment
  ), keyed AS (
    INSERT INTO compliance_eventkey (event, key)
      SELECT written.seq, decode(given.key, 'base64') FROM written
      JOIN given ON decode(given.commitment, 'base64') = written.commitment
  )
  SELECT written.seq FROM written ORDER BY written.seq;
END $$;

-- Gives waiting events their places: event i gets index first + i and hash i; the tiles are written as they will be.
-- One at a time: the caller's transaction holds the lock, so the size that it read is still the size.
CREATE OR REPLACE FUNCTION log_extend(first bigint, events bigint[], hashes bytea[], levels int[], places bigint[],
    contents bytea[]) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  taken bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('compliance.log', 0)) THEN
    RAISE EXCEPTION 'the log is being sequenced elsewhere' USING ERRCODE = 'lock_not_available';
  ELSIF first <> (SELECT coalesce(max(index) + 1, 0) FROM compliance_leaf) THEN
    RAISE EXCEPTION 'the log does not have % entries', first USING ERRCODE = 'serialization_failure';
  ELSIF cardinality(events) <> cardinality(hashes) OR EXISTS (
      SELECT FROM unnest(hashes) AS h(hash) WHERE h.hash IS NULL OR octet_length(h.hash) <> 32) THEN
    RAISE EXCEPTION 'each event has a hash of 32 bytes' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO compliance_leaf (index, event, hash)
    SELECT first + b.n - 1, b.event, b.hash FROM unnest(events, hashes) WITH ORDINALITY AS b(event, hash, n);
  DELETE FROM compliance_pending WHERE seq = ANY (events);
  GET DIAGNOSTICS taken = ROW_COUNT;
  IF taken <> cardinality(events) THEN
    RAISE EXCEPTION 'an event that does not wait cannot be sequenced' USING ERRCODE = 'foreign_key_violation';
  END IF;
  INSERT INTO compliance_tile (level, index, hashes) SELECT * FROM unnest(levels, places, contents)
    ON CONFLICT (level, index) DO UPDATE SET hashes = excluded.hashes;
  RETURN first + taken;
END $$;

-- Keeps a signed checkpoint: of entries that are there, and of more than the last one.
CREATE OR REPLACE FUNCTION log_checkpoint(entries bigint, tree_root bytea, signed text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF entries > (SELECT coalesce(max(index) + 1, 0) FROM compliance_leaf)
      OR entries <= (SELECT coalesce(max(size), 0) FROM compliance_checkpoint) OR octet_length(tree_root) <> 32 THEN
    RAISE EXCEPTION 'a checkpoint is of more entries than the last one, and of no more than there are'
      USING ERRCODE = 'check_violation';
  END IF;
  INSERT INTO compliance_checkpoint (size, root, note, at) VALUES (entries, tree_root, signed, clock_timestamp());
END $$;

-- Keeps what a witness signed. Its first signature for a checkpoint stays.
CREATE OR REPLACE FUNCTION log_cosign(entries bigint, who text, signed text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO compliance_cosignature (size, witness, lines, at) VALUES (entries, who, signed, clock_timestamp())
    ON CONFLICT DO NOTHING;
  RETURN FOUND;
END $$;

-- Remembers another log's checkpoint before it is cosigned. Smaller than the last one, or the same size with another
-- root: refused, whatever the caller has checked.
CREATE OR REPLACE FUNCTION log_witness(log_origin text, entries bigint, tree_root bytea, signed text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('compliance.witness ' || log_origin, 0));
  IF EXISTS (SELECT FROM compliance_witnessed w WHERE w.origin = log_origin
             AND (w.size > entries OR w.size = entries AND w.root <> tree_root)) THEN
    RAISE EXCEPTION 'this log was seen with more entries, or with others' USING ERRCODE = 'check_violation';
  END IF;
  INSERT INTO compliance_witnessed (origin, size, root, note, at)
    VALUES (log_origin, entries, tree_root, signed, clock_timestamp()) ON CONFLICT DO NOTHING;
END $$;

-- Destroys the keys of private parts. Returns the events whose key this call destroyed.
CREATE OR REPLACE FUNCTION log_erase(seqs bigint[]) RETURNS SETOF bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE compliance_eventkey SET key = NULL, destroyed_at = clock_timestamp()
    WHERE event = ANY (seqs) AND key IS NOT NULL RETURNING event
$$;

-- A few thousand rows come and go every second, and an index full of dead ones would slow the next batch down.
ALTER TABLE compliance_pending SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
