INSERT INTO wide
  (tenant, email, name, status, created_at, amount, quantity, ratio, active, tags, settings, payload, note, region, score)
SELECT
  ('6f1c9a54-3b1e-4b57-9c0e-0242ac12000' || i % 10)::uuid, 'user' || i || '@example.com', 'User Number ' || i, 'active',
  '2026-11-21 03:25:17.123456+00'::timestamptz + i * interval '1 min', i * 1.37, i % 100, i / 7.0, i % 2 = 0,
  ARRAY['a', 'tag' || i % 5],
  jsonb_build_object('theme', 'dark', 'locale', 'en-GB', 'notifications', jsonb_build_object('email', true, 'push', i % 3 = 0)),
  (SELECT jsonb_agg(jsonb_build_object('sku', 'SKU-' || i || '-' || k, 'qty', k, 'price', k * 9.99, 'options', jsonb_build_array('red', 'L')))
   FROM generate_series(1, 5) k),
  repeat('lorem ipsum ', 6), 'eu-west-1', i % 10
FROM generate_series(1, 120) i

UPDATE wide SET status = 'inactive', updated_at = '2026-11-21 04:00:00+00' WHERE id % 2 = 0

UPDATE wide SET settings = settings || '{"beta": true}' WHERE id % 3 = 0

DELETE FROM wide WHERE id % 10 = 0
