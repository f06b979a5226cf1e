-- pgbench's own transaction (TPC-B), as often as fits.
SELECT setseed(0.5)

DO $$
DECLARE
  account int; teller int; change int;
BEGIN
  FOR i IN 1 .. 280 LOOP
    account := 1 + floor(random() * 100000);
    teller := 1 + floor(random() * 10);
    change := floor(random() * 10001) - 5000;
    UPDATE pgbench_accounts SET abalance = abalance + change WHERE aid = account;
    UPDATE pgbench_tellers SET tbalance = tbalance + change WHERE tid = teller;
    UPDATE pgbench_branches SET bbalance = bbalance + change WHERE bid = 1;
    INSERT INTO pgbench_history VALUES (teller, 1, account, change, current_timestamp);
    COMMIT;
  END LOOP;
END $$
