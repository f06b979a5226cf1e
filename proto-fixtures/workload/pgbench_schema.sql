CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))

CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))

CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))

CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))

INSERT INTO pgbench_branches VALUES (1, 0)

INSERT INTO pgbench_tellers SELECT i, 1, 0 FROM generate_series(1, 10) i

INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM generate_series(1, 100000) i

CREATE PUBLICATION bench FOR ALL TABLES
