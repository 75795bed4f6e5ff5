CREATE TABLE contact (id int NOT NULL PRIMARY KEY, code varchar(20), name varchar(60) NOT NULL, active tinyint(1) NOT NULL,
    phone varchar(20), credit int, created datetime, label varchar(10) NOT NULL, shout varchar(60) AS (upper(name)));
CREATE TABLE account (party_id int NOT NULL PRIMARY KEY, name varchar(60) NOT NULL, city varchar(40));
CREATE TABLE orders (id int NOT NULL PRIMARY KEY, number varchar(20) NOT NULL, party_id int NOT NULL, total decimal(10,2));
CREATE TABLE order_line (id int NOT NULL PRIMARY KEY, order_id int NOT NULL, product varchar(40), qty decimal(12,3),
    FOREIGN KEY (order_id) REFERENCES orders (id));
CREATE TABLE loose (id int, code varchar(2));
CREATE TABLE journal (line varchar(100) NOT NULL PRIMARY KEY);
CREATE TABLE zone (id int NOT NULL PRIMARY KEY, name varchar(20));
CREATE PROCEDURE put_account(p_party_id int, p_name varchar(60))
    INSERT INTO account (party_id, name) VALUES (p_party_id, p_name) ON DUPLICATE KEY UPDATE name = p_name;
CREATE PROCEDURE remove_account(p_party_id int) DELETE FROM account WHERE party_id = p_party_id;
CREATE PROCEDURE forget_account(p_party_id int, p_why text) DELETE FROM account WHERE party_id = p_party_id;
CREATE PROCEDURE commit_account(p_party_id int) COMMIT;
CREATE PROCEDURE put_lines(p_sale_id int, p_lines longtext) DELETE FROM order_line WHERE order_id = p_sale_id;
