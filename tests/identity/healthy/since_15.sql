-- Issues and events by the million, and accounts by realm: parts of tables, by columns, rows and schemas.
CREATE SCHEMA realm; CREATE SCHEMA events;
CREATE TABLE realm.user_entity (
    id varchar(36) PRIMARY KEY, email varchar(255), email_constraint varchar(255), realm_id varchar(255) NOT NULL,
    password_hash text, created_timestamp bigint, CONSTRAINT uk_email UNIQUE (realm_id, email_constraint)
);
CREATE TABLE realm.user_role_mapping (role_id varchar(255), user_id varchar(36), PRIMARY KEY (role_id, user_id));
CREATE TABLE realm.credential (
    id varchar(36) PRIMARY KEY, salt bytea, type varchar(255), user_id varchar(36) REFERENCES realm.user_entity, priority int
);
CREATE TABLE realm.user_attribute (
    name varchar(255) NOT NULL, value varchar(255), user_id varchar(36) NOT NULL, realm_id varchar(36) NOT NULL,
    id varchar(36) NOT NULL UNIQUE, long_value text
);
CREATE UNIQUE INDEX user_attribute_identity ON realm.user_attribute (user_id, realm_id, id) INCLUDE (value);
ALTER TABLE realm.user_attribute REPLICA IDENTITY USING INDEX user_attribute_identity;
CREATE TABLE events.grouped (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL, status int, short_id bigint,
    label text GENERATED ALWAYS AS ('#' || short_id) STORED
);
CREATE UNIQUE INDEX ON events.grouped (project_id, short_id);
CREATE TABLE events.event (
    project_id bigint NOT NULL, id bigint NOT NULL, at date NOT NULL, data json, tags text[], PRIMARY KEY (project_id, id, at)
) PARTITION BY RANGE (at);
CREATE TABLE events.event_old PARTITION OF events.event FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE events.event_new PARTITION OF events.event FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
-- No password goes out; what tells the rows apart does.
CREATE PUBLICATION users FOR TABLE realm.user_entity (id, email, realm_id), realm.user_role_mapping (user_id, role_id),
    realm.user_attribute (id, realm_id, user_id, value);
CREATE PUBLICATION one_realm FOR TABLE realm.user_attribute WHERE (realm_id = 'a' AND user_id <> ''),
    realm.user_role_mapping WHERE (length(role_id) > 3);
CREATE PUBLICATION everything FOR TABLES IN SCHEMA events, realm;
CREATE PUBLICATION by_root FOR TABLES IN SCHEMA events WITH (publish_via_partition_root);
CREATE PUBLICATION some_columns FOR TABLE events.event (id, at, project_id, tags) WHERE (project_id = 7 AND at > '2025-01-01')
    WITH (publish_via_partition_root);
CREATE PUBLICATION mixed FOR TABLES IN SCHEMA events, TABLE realm.credential WHERE (id > '0');
-- What only adds rows may filter and list as it likes, and needs no key.
CREATE TABLE events.outcomes (at timestamptz NOT NULL, project_id bigint, quantity int);
CREATE PUBLICATION added FOR TABLE realm.user_entity (email) WHERE (email LIKE '%@example.org'), events.outcomes WHERE (quantity > 1)
    WITH (publish = 'insert, truncate');
ALTER PUBLICATION everything SET (publish = 'insert, truncate');
ALTER PUBLICATION by_root SET (publish = 'insert');
ALTER PUBLICATION mixed SET (publish = 'insert');
CREATE PUBLICATION realms FOR TABLES IN SCHEMA realm;
CREATE PUBLICATION grouped FOR TABLE events.grouped, events.event WHERE (project_id > 0) WITH (publish_via_partition_root);
