CREATE TABLE eight (
  id bigint PRIMARY KEY, account int, kind text, amount numeric, at timestamptz, ok bool, note text, ref int
)

CREATE PUBLICATION bench FOR ALL TABLES
