-- The set-based steps of a request: admit, claim, route, finish. Each is one call for a batch, and each writes its
-- evidence in its own transaction. federation_inference.state moves only along federation/states.py.
-- What writes evidence runs as the tables' owner: the application's role may not write the log (compliance/sql/roles.sql).

ALTER TABLE federation_inference SET (fillfactor = 70);

CREATE OR REPLACE FUNCTION inference_refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'inference cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
END $$;
DROP TRIGGER IF EXISTS inference_transition ON federation_inference;
CREATE TRIGGER inference_transition BEFORE UPDATE OF state ON federation_inference FOR EACH ROW
  WHEN (OLD.state <> NEW.state AND NOT (
    OLD.state = 'queued' AND NEW.state IN ('dispatched', 'failed', 'cancelled') OR
    OLD.state = 'dispatched' AND NEW.state IN ('done', 'failed', 'cancelled')))
  EXECUTE FUNCTION inference_refuse_transition();

-- Admits a batch: principals still valid, budgets reserved, rows queued, evidence written.
-- verdict: 0 admitted; -1 repeat of row `existing`; -2 the principal changed, decide again; -3 batch not tried because
-- another principal in it changed; otherwise the id of the scope that cannot pay.
CREATE OR REPLACE FUNCTION inference_admit(ids uuid[], digests bytea[], memberships bigint[], versions bigint[],
    owners text[], keys text[], events jsonb[], lifetime interval,
    line_of int[], line_scope bigint[], line_amount bigint[],
    facts jsonb, requests bytea[], request_digests bytea[], reply_to text, lease_s real)
    RETURNS TABLE (verdict bigint, existing uuid) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  verdicts bigint[];
BEGIN
  SELECT array_agg(CASE WHEN u.id IS NULL OR (b.digest IS NOT NULL AND t.id IS NULL) THEN -2 ELSE -3 END ORDER BY b.n)
    INTO verdicts
    FROM unnest(digests, memberships, versions) WITH ORDINALITY AS b(digest, membership, version, n)
    LEFT JOIN accounts_membership m ON m.id = b.membership AND m.version = b.version AND m.active
    LEFT JOIN accounts_user u ON u.id = m.user_id AND u.is_active
    LEFT JOIN accounts_apitoken t ON t.digest = b.digest AND t.membership_id = m.id AND t.revoked_at IS NULL
      AND (t.expires_at IS NULL OR t.expires_at > now());
  IF -2 = ANY (verdicts) THEN
    RETURN QUERY SELECT v, NULL::uuid FROM unnest(verdicts) WITH ORDINALITY AS b(v, n) ORDER BY n;
    RETURN;
  END IF;
  verdicts := ledger_reserve(ids, owners, keys, events, lifetime, line_of, line_scope, line_amount);
  WITH batch AS (
    SELECT b.id, b.membership, b.key, b.request, b.request_digest, f.* FROM unnest(ids, memberships, keys, requests, request_digests, verdicts) WITH ORDINALITY
      AS b(id, membership, key, request, request_digest, verdict, n)
    JOIN jsonb_to_recordset(facts) AS f(n bigint, user_id bigint, department_id bigint, kind text, model text,
      purpose text, channel text, stream bool, hospitals text[], patient_reference text, parameters jsonb,
      epsilon_micro bigint, delta float8, hospital text, department text, policies jsonb, policy_digest text,
      charges jsonb) ON f.n = b.n
    WHERE b.verdict = 0
  ), queued AS (
    INSERT INTO federation_inference (id, user_id, membership_id, department_id, kind, model, purpose, channel, stream,
        hospitals, patient_reference, parameters, epsilon_micro, delta, idempotency_key, request_digest, request,
        state, reason, details, attempt, lease, reply_to, prompt_tokens, completion_tokens, finish_reason, created_at)
      SELECT id, user_id, membership, department_id, kind, model, purpose, channel, stream, hospitals,
        patient_reference, parameters, epsilon_micro, delta, key, request_digest, request,
        'queued', '', '{}', 0, now() + lease_s * interval '1 s', inference_admit.reply_to, 0, 0, '', now() FROM batch
  )
  INSERT INTO compliance_event (at, kind, outcome, actor_id, subject, hospital, department, purpose, details)
    SELECT now(), e.kind, e.outcome, batch.user_id, batch.id, batch.hospital, batch.department, batch.purpose, e.details
    FROM batch, LATERAL (VALUES
      (1, 'policy.decision', 'allowed', jsonb_build_object('policies', policies, 'policy_digest', policy_digest)),
      (2, 'request.submit', 'ok', jsonb_build_object('kind', batch.kind, 'model', model, 'channel', channel,
         'bytes', octet_length(request), 'digest', encode(request_digest, 'hex'))),
      (3, 'ledger.reserve', 'ok', jsonb_build_object('charges', charges, 'epsilon_micro', epsilon_micro))
    ) AS e(step, kind, outcome, details) ORDER BY batch.n, e.step;
  RETURN QUERY SELECT b.v, i.id FROM unnest(verdicts, owners, keys) WITH ORDINALITY AS b(v, owner, key, n)
    LEFT JOIN privacy_reservation r ON b.v = -1 AND r.owner = b.owner AND r.idempotency_key = b.key
    LEFT JOIN federation_inference i ON i.id = r.id ORDER BY b.n;
END $$;

-- Takes queued rows, or rows whose worker stopped renewing its lease. Losing this commit in a crash is harmless.
CREATE OR REPLACE FUNCTION inference_claim(ids uuid[], lease_s real)
    RETURNS TABLE (id uuid, attempt smallint, reply_to text, stream boolean, kind text, model text, purpose text,
      hospitals text[], patient_reference text, parameters jsonb, epsilon_micro bigint, delta float8, request bytea,
      request_digest bytea, user_id bigint, membership_id bigint, node_id text, cancelled boolean, home text, department_id bigint)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN QUERY UPDATE federation_inference i
    SET state = 'dispatched', attempt = (i.attempt + 1)::smallint, lease = now() + lease_s * interval '1 s'
    FROM accounts_membership m
    WHERE m.id = i.membership_id AND i.id = ANY (ids)
      AND (i.state = 'queued' OR i.state = 'dispatched' AND i.lease < now())
    RETURNING i.id, i.attempt, i.reply_to::text, i.stream, i.kind::text, i.model::text, i.purpose::text,
      i.hospitals::text[], i.patient_reference::text, i.parameters, i.epsilon_micro, i.delta, i.request,
      i.request_digest, i.user_id, i.membership_id, i.node_id::text, i.cancel_requested_at IS NOT NULL,
      m.hospital_id::text, i.department_id;
END $$;

-- Records where a claimed batch goes, before it goes there.
CREATE OR REPLACE FUNCTION inference_route(ids uuid[], attempts smallint[], nodes text[], planner text)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  WITH routed AS (
    UPDATE federation_inference i SET node_id = b.node FROM unnest(ids, attempts, nodes) AS b(id, attempt, node)
      WHERE i.id = b.id AND i.attempt = b.attempt AND i.state = 'dispatched'
      RETURNING i.id, i.user_id, i.purpose, i.attempt, i.node_id)
  INSERT INTO compliance_event (at, kind, outcome, actor_id, subject, hospital, department, purpose, details)
    SELECT now(), 'request.route', 'ok', user_id, routed.id, n.hospital_id, NULL, purpose,
      jsonb_build_object('node', node_id, 'attempt', attempt, 'planner', planner)
    FROM routed LEFT JOIN federation_node n ON n.id = routed.node_id;
END $$;

-- Ends dispatched rows once: answer, receipt, ledger and evidence together. Returns what it ended.
CREATE OR REPLACE FUNCTION inference_finish(ids uuid[], attempts smallint[], states text[], reasons text[],
    details jsonb[], answers bytea[], receipts jsonb[], prompt_tokens int[], completion_tokens int[],
    finish_reasons text[], outcomes text[], spents bigint[]) RETURNS SETOF uuid LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  mine uuid[];
BEGIN
  WITH ended AS (
    UPDATE federation_inference i SET state = b.state, reason = b.reason, details = b.details, answer = b.answer,
        receipt = b.receipt, prompt_tokens = b.prompt_tokens, completion_tokens = b.completion_tokens,
        finish_reason = b.finish_reason, finished_at = now()
      FROM unnest(ids, attempts, states, reasons, inference_finish.details, answers, receipts,
          inference_finish.prompt_tokens, inference_finish.completion_tokens, finish_reasons)
        AS b(id, attempt, state, reason, details, answer, receipt, prompt_tokens, completion_tokens, finish_reason)
      WHERE i.id = b.id AND i.attempt = b.attempt AND i.state IN ('queued', 'dispatched')
      RETURNING i.id, i.user_id, i.node_id, i.department_id, i.purpose, i.kind, i.state, i.reason, i.receipt,
        i.completion_tokens, i.epsilon_micro, octet_length(i.answer) AS bytes
  ), noted AS (
    INSERT INTO compliance_event (at, kind, outcome, actor_id, subject, hospital, department, purpose, details)
      SELECT now(), e.kind, e.outcome, d.user_id, d.id, n.hospital_id, dep.code, d.purpose, e.details
      FROM (SELECT ended.*, b.outcome, b.spent, b.n FROM ended
              JOIN unnest(ids, outcomes, spents) WITH ORDINALITY AS b(id, outcome, spent, n) USING (id)) d
      LEFT JOIN federation_node n ON n.id = d.node_id
      LEFT JOIN accounts_department dep ON dep.id = d.department_id,
      LATERAL (VALUES
        (1, 'node.receipt', 'ok', jsonb_build_object('node', d.node_id, 'receipt_digest', d.receipt #>> '{digest}',
           'mechanism', d.receipt #>> '{body,mechanism,name}')),
        (2, 'ledger.' || CASE d.outcome WHEN 'settled' THEN 'settle' ELSE 'release' END, 'ok',
           jsonb_build_object('epsilon_micro', CASE d.outcome WHEN 'settled' THEN d.epsilon_micro ELSE 0 END)),
        (3, CASE d.state WHEN 'done' THEN 'request.finish' WHEN 'cancelled' THEN 'request.cancel'
              ELSE 'request.fail' END, CASE d.state WHEN 'done' THEN 'ok' ELSE d.reason END,
           jsonb_build_object('kind', d.kind, 'node', d.node_id, 'tokens', d.completion_tokens, 'bytes', d.bytes))
      ) AS e(step, kind, outcome, details)
      WHERE e.step <> 1 OR d.receipt IS NOT NULL ORDER BY d.n, e.step)
  SELECT array_agg(ended.id) INTO mine FROM ended;
  PERFORM ledger_close(array_agg(b.id), array_agg(b.outcome), array_agg(b.spent))
    FROM unnest(ids, outcomes, spents) AS b(id, outcome, spent) WHERE b.id = ANY (mine);
  RETURN QUERY SELECT unnest(mine);
END $$;
