-- One transaction, of inserts that are 128 bytes long each in text form.
INSERT INTO eight
SELECT 1000000000 + i, 10000000 + i, 'paym', 100000.25 + i, '2026-11-21 03:25:17.12+00'::timestamptz, true,
  'the note is here: ', 10000 + i % 80000
FROM generate_series(1, 1500) i
