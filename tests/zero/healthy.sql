-- Nothing here is wrong for zero-cache, however near it comes.
CREATE TYPE "Status" AS ENUM ('open', 'done');
CREATE TABLE "User" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "displayName" text NOT NULL, "e-mail" text UNIQUE);
CREATE TABLE label (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40) NOT NULL, "color.rgb" bpchar(6));
CREATE TABLE issue (
    id bigint PRIMARY KEY, owner uuid REFERENCES "User", status "Status" NOT NULL DEFAULT 'open', history "Status"[],
    tags text[] NOT NULL DEFAULT '{}', grid int[][], extra jsonb, price numeric(12, 2) UNIQUE, opened timestamptz UNIQUE,
    due date, at time, weight float8, done boolean, address inet, digits numeric, parent bigint REFERENCES issue,
    title text, lower_title text GENERATED ALWAYS AS (lower(title)) STORED);
CREATE INDEX issue_open ON issue (opened) WHERE status = 'open';
CREATE UNIQUE INDEX issue_title ON issue (lower(title));
CREATE INDEX ON issue USING gin (tags);
CREATE TABLE issue_label (issue bigint REFERENCES issue, label int REFERENCES label, PRIMARY KEY (issue, label));
CREATE TABLE setting (name text NOT NULL UNIQUE, value json);
CREATE TABLE audit (id bigserial PRIMARY KEY, entry text); ALTER TABLE audit REPLICA IDENTITY FULL;
CREATE TABLE code (a int NOT NULL, b text NOT NULL, PRIMARY KEY (b, a)); CREATE UNIQUE INDEX code_a ON code (a);
ALTER TABLE code REPLICA IDENTITY USING INDEX code_a;
CREATE TABLE event (id bigint, day date, tags text[], PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE event_later PARTITION OF event DEFAULT;
CREATE VIEW open_issue AS SELECT * FROM issue WHERE status = 'open';
CREATE UNLOGGED TABLE cache (key text, value bytea);
CREATE SCHEMA internal;
CREATE TABLE internal."to do" (place point, at interval, _0_version int);
INSERT INTO "User" VALUES ('11111111-1111-1111-1111-111111111111', 'Ada', 'ada@example.org');
INSERT INTO label (name) VALUES ('bug');
INSERT INTO issue (id, owner, history, tags, grid, extra, price, opened, address, digits, title) VALUES
    (1, '11111111-1111-1111-1111-111111111111', '{open}', '{a,b}', '{{1,2},{3,4}}', '{"a": [1]}', 1.10, now(), '::1', 0.1, 'One');
INSERT INTO issue_label VALUES (1, 1);
INSERT INTO setting VALUES ('theme', '"dark"');
INSERT INTO audit (entry) VALUES ('begun');
INSERT INTO code VALUES (1, 'x');
INSERT INTO event VALUES (1, '2025-05-05', '{a}'), (2, '2026-06-06', '{}');
