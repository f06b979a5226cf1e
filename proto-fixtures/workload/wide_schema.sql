CREATE TABLE wide (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant uuid NOT NULL, email text NOT NULL, name text, status text,
  created_at timestamptz NOT NULL, updated_at timestamptz, amount numeric(12, 2), quantity int, ratio float8, active bool,
  tags text[], settings jsonb, payload jsonb, note text, deleted_at timestamptz, parent bigint, region text,
  score smallint, extra text
)

CREATE PUBLICATION bench FOR ALL TABLES
