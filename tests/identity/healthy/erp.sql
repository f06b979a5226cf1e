-- A business suite: relation tables with two columns, inheritance, numeric money, names in other scripts and with odd signs.
CREATE SCHEMA "Büro"; CREATE SCHEMA "日本";
CREATE TABLE res_partner (
    id serial NOT NULL, create_uid int, write_date timestamp, name varchar, company_id int, image bytea, vat varchar,
    CONSTRAINT res_partner_pkey PRIMARY KEY (id)
);
CREATE TABLE res_partner_category (id serial PRIMARY KEY, name jsonb NOT NULL, parent_path varchar);
CREATE TABLE res_partner_res_partner_category_rel (
    category_id int NOT NULL REFERENCES res_partner_category ON DELETE CASCADE,
    partner_id int NOT NULL REFERENCES res_partner ON DELETE CASCADE, PRIMARY KEY (category_id, partner_id)
);
CREATE INDEX ON res_partner_res_partner_category_rel (partner_id, category_id);
CREATE TABLE account_move (id serial PRIMARY KEY, amount numeric(16, 2), ref varchar UNIQUE, state varchar, period daterange);
CREATE TABLE account_move_archived (archived_at timestamptz, PRIMARY KEY (id)) INHERITS (account_move);
CREATE TABLE "Büro"."Aufträge (offen)" ("Nr." int PRIMARY KEY, "Größe" text, "it's" text, "a""b" int, "back\slash" int);
CREATE TABLE "Büro".select ("from" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "where" money);
CREATE TABLE "日本"."表" ("鍵" text PRIMARY KEY COLLATE "C", "値" text);
CREATE TABLE "日本"."a.b" ("c.d" macaddr NOT NULL, "e f" bit(3) NOT NULL, UNIQUE ("c.d", "e f"));
ALTER TABLE "日本"."a.b" REPLICA IDENTITY USING INDEX "a.b_c.d_e f_key";
CREATE TABLE wide (id int, PRIMARY KEY (id)); ALTER TABLE wide ADD COLUMN x int; ALTER TABLE wide DROP COLUMN x;
ALTER TABLE wide ADD COLUMN y text DEFAULT 'z';
CREATE PUBLICATION "Alles, auch ""das""" FOR ALL TABLES;
