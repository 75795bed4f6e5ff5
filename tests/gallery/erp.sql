CREATE TABLE party (id int PRIMARY KEY, code varchar(20) NOT NULL UNIQUE, name text NOT NULL, active boolean NOT NULL,
    phone varchar(20), credit numeric(12,2), created timestamptz NOT NULL);
CREATE TABLE country (id int PRIMARY KEY, code varchar(2) NOT NULL);
CREATE TABLE address (id int PRIMARY KEY, party int NOT NULL REFERENCES party, country int REFERENCES country, city text);
CREATE TABLE sale (id int PRIMARY KEY, number varchar(20), party int NOT NULL REFERENCES party, total numeric(14,4));
CREATE TABLE sale_line (id int PRIMARY KEY, sale int NOT NULL REFERENCES sale, product varchar(40), qty numeric(12,3));
CREATE TABLE journal (line text);
CREATE TABLE zone (id int PRIMARY KEY, name varchar(20));
CREATE VIEW account AS SELECT p.id AS party_id, p.name, (SELECT min(a.city) FROM address a WHERE a.party = p.id) AS city
    FROM party p;
CREATE VIEW sale_lines AS SELECT l.id AS line_id, l.sale AS sale_id, l.product, l.qty
    FROM sale_line l JOIN sale s ON s.id = l.sale WHERE s.number IS NOT NULL;
