-- Generated columns of both kinds, a key that lasts, and publications that say which generated columns go out.
CREATE TABLE invoices (
    id uuid PRIMARY KEY DEFAULT uuidv7(), net numeric NOT NULL, rate numeric NOT NULL,
    tax numeric GENERATED ALWAYS AS (net * rate) STORED, gross numeric GENERATED ALWAYS AS (net * (1 + rate)) VIRTUAL
);
CREATE TABLE codes (
    code text NOT NULL, folded text GENERATED ALWAYS AS (lower(code)) STORED NOT NULL, CONSTRAINT codes_key UNIQUE (folded)
);
ALTER TABLE codes REPLICA IDENTITY USING INDEX codes_key;
CREATE TABLE snapshots (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a + 1) STORED);
ALTER TABLE invoices ADD CONSTRAINT net_is_positive CHECK (net > 0) NOT ENFORCED;
CREATE PUBLICATION invoices FOR TABLE invoices WHERE (id IS NOT NULL);
CREATE PUBLICATION generated FOR ALL TABLES WITH (publish_generated_columns = stored);
CREATE PUBLICATION listed FOR TABLE codes (folded), snapshots (id, b);
