-- A code forge: partitions by range, by list and by hash, of partitions too, some attached, in a schema of their own.
CREATE SCHEMA parts;
CREATE TYPE state AS ENUM ('created', 'running', 'failed', 'success');
CREATE TABLE projects (id bigserial PRIMARY KEY, path text NOT NULL, traversal_ids int[] NOT NULL DEFAULT '{}');
CREATE TABLE audit_events (
    id bigserial, created_at timestamp NOT NULL, author_id int NOT NULL, details text, ip inet,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE parts.audit_events_202601 PARTITION OF audit_events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts.audit_events_202602 (
    details text, id bigint NOT NULL, created_at timestamp NOT NULL, ip inet, author_id int NOT NULL, gone int
);
ALTER TABLE parts.audit_events_202602 DROP COLUMN gone;
ALTER TABLE audit_events ATTACH PARTITION parts.audit_events_202602 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE builds (
    id bigint NOT NULL, partition_id bigint NOT NULL, project_id bigint NOT NULL, status state, coverage float8, options jsonb,
    PRIMARY KEY (id, partition_id)
) PARTITION BY LIST (partition_id);
CREATE TABLE parts.builds_100 PARTITION OF builds FOR VALUES IN (100);
CREATE TABLE parts.builds_101 PARTITION OF builds FOR VALUES IN (101) PARTITION BY HASH (id);
CREATE TABLE parts.builds_101_0 PARTITION OF parts.builds_101 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts.builds_101_1 PARTITION OF parts.builds_101 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- The key of the root cannot be: each leaf names its own rows.
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, payload json) PARTITION BY RANGE ((id / 1000));
CREATE TABLE parts.events_default PARTITION OF events DEFAULT;
CREATE UNIQUE INDEX events_default_id ON parts.events_default (id);
ALTER TABLE parts.events_default REPLICA IDENTITY USING INDEX events_default_id;
CREATE TABLE merge_request_assignees (user_id bigint NOT NULL, merge_request_id bigint NOT NULL, at timestamptz);
CREATE UNIQUE INDEX CONCURRENTLY i ON merge_request_assignees (merge_request_id, user_id);
ALTER TABLE merge_request_assignees ADD PRIMARY KEY USING INDEX i;
CREATE TABLE empty (id bigint, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE PUBLICATION leaves FOR ALL TABLES;
CREATE PUBLICATION roots FOR TABLE audit_events, builds, events, projects WITH (publish_via_partition_root);
