CREATE TYPE pair AS (x int, label text)

CREATE TYPE span AS RANGE (subtype = float8)

CREATE TABLE every (
  id serial PRIMARY KEY,
  b bool, i2 smallint, i4 int, i8 bigint, f4 real, f8 float8, n numeric(20, 5), big numeric, cash money,
  t text, v varchar(20), c char(6), nm name, ch "char", by bytea, bits bit(5), var bit varying(9),
  d date, ti time, ttz timetz, ts timestamp, tz timestamptz, iv interval,
  u uuid, js json, jb jsonb, jp jsonpath, x xml, tsv tsvector, tsq tsquery,
  ip inet, net cidr, mac macaddr, mac8 macaddr8,
  pt point, li line, seg lseg, bx box, pa path, po polygon, ci circle,
  r4 int4range, rts tstzrange, mr int4multirange, own span,
  ints int[], grid int[][], texts text[], moods mood[], co pair, cos pair[], m mood, p positive,
  o oid, rc regclass, rt regtype, lsn pg_lsn, xid8 xid8, tid tid
)

ALTER PUBLICATION p ADD TABLE every

INSERT INTO every VALUES (
  DEFAULT, true, -32768, 2147483647, -9223372036854775808, 1.5e-10, 'NaN', -12345.67890, 1e40, '1.23',
  E'tab\tquote"back\\', 'ünï', 'ab', 'a_name', 'z', '\xdeadbeef00', B'10110', B'1',
  '0044-03-15 BC', '23:59:59.999999', '01:02:03+05:30', '294276-12-31 23:59:59.999999', '-infinity', '1 year -2 days 3:04:05.6',
  '6f1c9a54-3b1e-4b57-9c0e-0242ac120002', '{"a" : [1,  2]}', '{"b": {"c": null}, "a": 1.10}', '$.a[*] ? (@ > 1)', '<a>t</a>',
  'a:1A fat:2 cat:3', 'fat & !rat',
  '192.168.1.5/24', '2001:db8::/32', '08:00:2b:01:02:03', '08:00:2b:ff:fe:01:02:03',
  '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(2,2),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,0),(1,1))', '<(0,0),5>',
  '[1,10)', '[2026-01-01 00:00+00,)', '{[1,3),[5,8)}', '[0.5,1.5]',
  '{1,null,3}', '{{1,2},{3,4}}', '{"a,b","c\"d",null,""}', '{calm,cross}', '(1,"two, three")', '{"(1,a)","(,)"}', 'cross', 7,
  1259, 'every', 'int4[]', '16/B374D848', '18446744073709551615', '(0,1)'
)

INSERT INTO every (b, f4, f8, big, iv, d, r4, ints) VALUES
  (false, 'Infinity', '-Infinity', 'NaN', '0', 'infinity', 'empty', '{}')

INSERT INTO every DEFAULT VALUES
