-- The arithmetic of the ledger: every step is one statement for a whole batch, in one transaction with its caller.
-- Scopes are always locked in id order, so two batches cannot deadlock. Amounts are whole units of each scope.

-- Makes a table append-only for everybody, its owner included.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

DROP TRIGGER IF EXISTS privacy_entry_append_only ON privacy_entry;
CREATE TRIGGER privacy_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON privacy_entry
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE privacy_entry ENABLE ALWAYS TRIGGER privacy_entry_append_only;

-- Reserves for a batch. Line i charges line_amount[i] to line_scope[i] for reservation res[line_of[i]].
-- Returns one verdict a reservation: 0 reserved; -1 the owner's key was reserved before (nothing is charged again);
-- otherwise the id of the first scope that cannot pay (nothing is charged).
CREATE OR REPLACE FUNCTION ledger_reserve(res uuid[], owners text[], keys text[], events jsonb[],
    lifetime interval, line_of int[], line_scope bigint[], line_amount bigint[])
    RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  verdicts bigint[] := array_fill(0::bigint, ARRAY[cardinality(res)]);
  short bigint;
  locked bigint;
  retired boolean;
  i int;
BEGIN
  SELECT count(*), coalesce(bool_or(s.retired_at IS NOT NULL), false) INTO locked, retired
    FROM (SELECT retired_at FROM privacy_scope WHERE id = ANY (line_scope) ORDER BY id FOR NO KEY UPDATE) s;
  IF locked <> (SELECT count(DISTINCT s) FROM unnest(line_scope) AS b(s)) THEN  -- else the line would cost nothing
    RAISE EXCEPTION 'a charge names a scope that does not exist' USING ERRCODE = 'foreign_key_violation';
  ELSIF 0 > ANY (line_amount) THEN
    RAISE EXCEPTION 'a charge is negative' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM ledger_roll(line_scope);
  IF cardinality(array_remove(keys, NULL)) > 0 THEN
    SELECT array_agg(CASE WHEN k.key IS NOT NULL AND (k.nth > 1 OR r.id IS NOT NULL) THEN -1 ELSE 0 END ORDER BY k.n)
      INTO verdicts
      FROM (SELECT b.owner, b.key, b.n, row_number() OVER (PARTITION BY b.owner, b.key ORDER BY b.n) AS nth
              FROM unnest(owners, keys) WITH ORDINALITY AS b(owner, key, n)) k
      LEFT JOIN privacy_reservation r ON r.owner = k.owner AND r.idempotency_key = k.key;
  END IF;
  BEGIN  -- all of the batch fits, nearly always: one update of each scope
    IF retired THEN
      RAISE check_violation;
    END IF;
    UPDATE privacy_scope s SET used = s.used + t.amount
      FROM (SELECT l.scope, sum(l.amount)::bigint AS amount FROM unnest(line_of, line_scope, line_amount)
              AS l(nth, scope, amount) WHERE verdicts[l.nth] = 0 GROUP BY l.scope) t
      WHERE s.id = t.scope;
  EXCEPTION WHEN check_violation OR numeric_value_out_of_range THEN  -- some do not: one by one, first come first served
    FOR i IN 1 .. cardinality(res) LOOP
      CONTINUE WHEN verdicts[i] <> 0;
      SELECT s.id INTO short FROM unnest(line_of, line_scope, line_amount) AS l(nth, scope, amount)
        JOIN privacy_scope s ON s.id = l.scope
        WHERE l.nth = i AND (s.retired_at IS NOT NULL OR l.amount > s.cap + s.extra - s.used) ORDER BY s.id LIMIT 1;
      IF FOUND THEN
        verdicts[i] := short;
      ELSE
        UPDATE privacy_scope s SET used = s.used + l.amount
          FROM unnest(line_of, line_scope, line_amount) AS l(nth, scope, amount) WHERE l.nth = i AND s.id = l.scope;
      END IF;
    END LOOP;
  END;
  INSERT INTO privacy_reservation (id, state, owner, idempotency_key, event, created_at, expires_at)
    SELECT b.id, 'reserved', b.owner, b.key, b.event, now(), now() + lifetime
    FROM unnest(res, owners, keys, events, verdicts) AS b(id, owner, key, event, verdict) WHERE b.verdict = 0;
  INSERT INTO privacy_entry (at, reservation_id, scope_id, kind, amount, period)
    SELECT now(), res[l.nth], l.scope, 'reserve', l.amount, s.period
    FROM unnest(line_of, line_scope, line_amount) AS l(nth, scope, amount)
    JOIN privacy_scope s ON s.id = l.scope WHERE verdicts[l.nth] = 0;
  RETURN verdicts;
END $$;

-- Starts the day of quotas whose period is over. Blocks never come here: they do not reset.
CREATE OR REPLACE FUNCTION ledger_roll(scopes bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM privacy_scope WHERE id = ANY (scopes) AND resets
             AND period < (now() AT TIME ZONE time_zone)::date) THEN
    WITH due AS (
      SELECT id, used, (now() AT TIME ZONE time_zone)::date AS today FROM privacy_scope
        WHERE id = ANY (scopes) AND resets AND period < (now() AT TIME ZONE time_zone)::date
    ), moved AS (
      UPDATE privacy_scope s SET used = 0, extra = 0, period = due.today FROM due WHERE s.id = due.id
        RETURNING s.id, due.used AS before, due.today)
    INSERT INTO privacy_entry (at, scope_id, kind, amount, period)
      SELECT now(), id, 'reset', -before, today FROM moved WHERE before > 0;
  END IF;
END $$;

-- Ends open reservations once. spent[i] NULL keeps the full amount of every line, otherwise at most spent[i] of each
-- line stays charged and the rest goes back to the scopes (if the quota's day is still the same).
-- Returns the reservations that this call ended.
CREATE OR REPLACE FUNCTION ledger_close(res uuid[], outcomes text[], spents bigint[])
    RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM unnest(spents) AS b(spent) WHERE b.spent IS NOT NULL) THEN
    PERFORM 1 FROM privacy_scope WHERE id IN (
      SELECT e.scope_id FROM unnest(res, spents) AS b(id, spent) JOIN privacy_entry e ON e.reservation_id = b.id
      WHERE b.spent IS NOT NULL) ORDER BY id FOR NO KEY UPDATE;
  END IF;
  RETURN QUERY WITH ended AS (
    UPDATE privacy_reservation r SET state = b.outcome, ended_at = now()
      FROM unnest(res, outcomes, spents) AS b(id, outcome, spent)
      WHERE r.id = b.id AND r.state = 'reserved' RETURNING r.id, b.spent
  ), back AS (
    SELECT ended.id, e.scope_id, e.amount - least(e.amount, greatest(ended.spent, 0)) AS amount, e.period
      FROM ended JOIN privacy_entry e ON e.reservation_id = ended.id AND e.kind = 'reserve'
      WHERE ended.spent IS NOT NULL AND e.amount > ended.spent
  ), paid AS (
    UPDATE privacy_scope s SET used = s.used - t.amount
      FROM (SELECT back.scope_id, sum(back.amount)::bigint AS amount FROM back JOIN privacy_scope p
              ON p.id = back.scope_id AND p.period IS NOT DISTINCT FROM back.period GROUP BY back.scope_id) t
      WHERE s.id = t.scope_id RETURNING s.id
  ), noted AS (
    INSERT INTO privacy_entry (at, reservation_id, scope_id, kind, amount, period)
      SELECT now(), back.id, back.scope_id, 'refund', -back.amount, back.period
      FROM back JOIN privacy_scope p ON p.id = back.scope_id AND p.period IS NOT DISTINCT FROM back.period)
  SELECT ended.id FROM ended;
END $$;

-- Ends one open reservation whose lines are in different units: of the line at scopes[i] at most spents[i] stays charged,
-- of a line at a scope that is not named all of it. Returns whether this call ended it.
CREATE OR REPLACE FUNCTION ledger_settle(res uuid, scopes bigint[], spents bigint[]) RETURNS boolean
    LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM privacy_scope WHERE id IN (SELECT scope_id FROM privacy_entry WHERE reservation_id = res)
    ORDER BY id FOR NO KEY UPDATE;
  UPDATE privacy_reservation SET state = 'settled', ended_at = now() WHERE id = res AND state = 'reserved';
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  WITH back AS (
    SELECT e.scope_id, e.amount - greatest(b.spent, 0) AS amount, e.period
      FROM privacy_entry e JOIN unnest(scopes, spents) AS b(scope, spent) ON b.scope = e.scope_id
      WHERE e.reservation_id = res AND e.kind = 'reserve' AND e.amount > b.spent
  ), paid AS (
    UPDATE privacy_scope s SET used = s.used - back.amount FROM back
      WHERE s.id = back.scope_id AND s.period IS NOT DISTINCT FROM back.period RETURNING s.id
  )
  INSERT INTO privacy_entry (at, reservation_id, scope_id, kind, amount, period)
    SELECT now(), res, back.scope_id, 'refund', -back.amount, back.period FROM back JOIN paid ON paid.id = back.scope_id;
  RETURN true;
END $$;

-- Gives `amount` more to a quota for its present day, out of `source`'s own day if one is named. Both days begin first
-- if they are due, so a grant never outlives midnight. A source that cannot spare it violates scope_not_overspent.
CREATE OR REPLACE FUNCTION ledger_grant(target bigint, source bigint, amount bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  scopes bigint[] := array_remove(ARRAY[target, source], NULL);
BEGIN
  PERFORM 1 FROM privacy_scope WHERE id = ANY (scopes) ORDER BY id FOR NO KEY UPDATE;
  IF amount <= 0 OR (SELECT count(*) FROM privacy_scope WHERE id = ANY (scopes) AND resets) <> cardinality(scopes) THEN
    RAISE EXCEPTION 'only quotas can be granted more' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM ledger_roll(scopes);
  UPDATE privacy_scope SET extra = extra + CASE WHEN id = target THEN amount ELSE -amount END WHERE id = ANY (scopes);
END $$;
