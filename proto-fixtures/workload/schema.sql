CREATE TYPE mood AS ENUM ('calm', 'cross')

CREATE DOMAIN positive AS int CHECK (VALUE > 0)

CREATE TABLE kv (id int PRIMARY KEY, note text, big text)

ALTER TABLE kv ALTER big SET STORAGE external

CREATE TABLE full_row (id int, "Mixed Case" text, data bytea)

ALTER TABLE full_row REPLICA IDENTITY FULL

CREATE TABLE typed (
  id bigint PRIMARY KEY, m mood, p positive, at timestamptz, amount numeric, doc jsonb, tags text[], ok bool
)

CREATE TABLE gen (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, note text)

-- Not published: fills transactions so that they are streamed, and makes ones that are empty to a subscriber.
CREATE TABLE noise (t text)

CREATE PUBLICATION p FOR TABLE kv, full_row, typed, gen
