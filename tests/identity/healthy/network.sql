-- A social network: ids made by a function of the time, composite keys, tables in several schemas, deferrable foreign keys.
CREATE SCHEMA accounts; CREATE SCHEMA "Timelines";
CREATE FUNCTION timestamp_id(table_name text) RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16 $$;
CREATE DOMAIN accounts.handle AS text CHECK (VALUE ~ '^[a-z0-9_]+$');
CREATE TABLE accounts.accounts (
    id bigint PRIMARY KEY DEFAULT timestamp_id('accounts'), username accounts.handle NOT NULL, domain text,
    public_key text NOT NULL DEFAULT '', fields jsonb, also_known_as varchar[], "displayName" text
);
CREATE UNIQUE INDEX index_accounts_on_username_and_domain ON accounts.accounts (lower(username), COALESCE(lower(domain), ''));
CREATE TABLE accounts.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id bigint NOT NULL,
    email text NOT NULL, otp_backup_codes text[], created_by_application_id bigint,
    CONSTRAINT fk_account FOREIGN KEY (account_id) REFERENCES accounts.accounts DEFERRABLE INITIALLY DEFERRED
);
CREATE UNIQUE INDEX users_email ON accounts.users (email) INCLUDE (account_id);
CREATE TABLE "Timelines".statuses (
    id bigint PRIMARY KEY DEFAULT timestamp_id('statuses'), account_id bigint NOT NULL, in_reply_to_id bigint,
    visibility smallint NOT NULL DEFAULT 0, text text NOT NULL, ordered_media_attachment_ids bigint[]
);
CREATE INDEX statuses_public ON "Timelines".statuses (id DESC) WHERE visibility = 0;
CREATE TABLE "Timelines".statuses_tags (status_id bigint, tag_id bigint, PRIMARY KEY (tag_id, status_id));
CREATE TABLE accounts.follows (account_id bigint NOT NULL, target_account_id bigint NOT NULL, languages text[]);
ALTER TABLE accounts.follows ADD CONSTRAINT follows_key UNIQUE (account_id, target_account_id);
ALTER TABLE accounts.follows REPLICA IDENTITY USING INDEX follows_key;
CREATE UNLOGGED TABLE accounts.feed_cache (account_id bigint, status_id bigint);
CREATE PUBLICATION network FOR TABLE accounts.accounts, accounts.users, "Timelines".statuses, "Timelines".statuses_tags,
    accounts.follows;
-- A consumer that is told what is new, and nothing else, needs no identity.
CREATE TABLE accounts.log (at timestamptz DEFAULT now(), what text);
CREATE PUBLICATION log FOR TABLE accounts.log WITH (publish = 'insert');
