-- A forum: many tables with serial keys, join tables, enums and arrays, full-text search in a table of its own.
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE TYPE notification_level AS ENUM ('muted', 'regular', 'tracking', 'watching');
CREATE TABLE users (
    id serial PRIMARY KEY, username varchar(60) NOT NULL, username_lower varchar(60) NOT NULL UNIQUE, name text,
    created_at timestamp NOT NULL DEFAULT now(), flair_group_id int, ip_address inet, suspended_till timestamptz
);
CREATE UNIQUE INDEX index_users_on_username ON users (username);
CREATE INDEX index_users_on_lower ON users (lower(username_lower)) WHERE suspended_till IS NULL;
CREATE TABLE categories (
    id serial PRIMARY KEY, parent_category_id int REFERENCES categories, name varchar(50) NOT NULL, slug text NOT NULL,
    color char(6) NOT NULL DEFAULT '0088CC', permissions jsonb, tags text[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX unique_index_categories_on_name ON categories (COALESCE(parent_category_id, -1), lower(name));
CREATE TABLE topics (
    id bigserial PRIMARY KEY, title varchar NOT NULL, category_id int REFERENCES categories, user_id int REFERENCES users,
    deleted_at timestamp, slug varchar GENERATED ALWAYS AS (lower(title)) STORED
);
CREATE TABLE posts (
    id bigserial PRIMARY KEY, topic_id bigint NOT NULL REFERENCES topics ON DELETE CASCADE, post_number int NOT NULL,
    user_id int REFERENCES users ON DELETE SET NULL, raw text NOT NULL, cooked text NOT NULL, image xml,
    UNIQUE (topic_id, post_number)
);
-- The key is the post's; other columns cannot be compared, which only FULL would need.
CREATE TABLE post_search_data (post_id bigint PRIMARY KEY REFERENCES posts, search_data tsvector, raw_data json, at point);
CREATE INDEX idx_search_post ON post_search_data USING gin (search_data);
-- Rows are named by two columns and by no id.
CREATE TABLE topic_users (
    user_id int NOT NULL REFERENCES users, topic_id bigint NOT NULL REFERENCES topics,
    level notification_level NOT NULL DEFAULT 'regular', last_read_post_number int, PRIMARY KEY (user_id, topic_id)
);
CREATE TABLE tags (id serial, name varchar NOT NULL, CONSTRAINT tags_pkey PRIMARY KEY (id));
CREATE TABLE topic_tags (topic_id bigint NOT NULL, tag_id int NOT NULL);
CREATE UNIQUE INDEX index_topic_tags ON topic_tags (topic_id, tag_id);
ALTER TABLE topic_tags REPLICA IDENTITY USING INDEX index_topic_tags;
CREATE TABLE schema_migrations (version varchar PRIMARY KEY);
CREATE MATERIALIZED VIEW directory AS SELECT user_id, count(*) AS posts FROM posts GROUP BY user_id;
CREATE VIEW badge_posts AS SELECT p.* FROM posts AS p JOIN topics AS t ON t.id = p.topic_id WHERE t.deleted_at IS NULL;
CREATE PUBLICATION forum FOR ALL TABLES;
