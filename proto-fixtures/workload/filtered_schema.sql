CREATE TABLE part (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)

CREATE TABLE part_25 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')

CREATE TABLE part_26 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')

CREATE SCHEMA "Other"

CREATE TABLE "Other"."in schema" (id int PRIMARY KEY)

CREATE PUBLICATION schemas FOR TABLES IN SCHEMA "Other"

CREATE TABLE chosen (id int PRIMARY KEY, secret text, amount int)

CREATE PUBLICATION filtered FOR TABLE part, chosen (id, amount) WHERE (id < 100) WITH (publish_via_partition_root)
