-- The CRM's database: MariaDB.

CREATE TABLE account (
  id         int NOT NULL AUTO_INCREMENT PRIMARY KEY,
  party_id   int NOT NULL UNIQUE,
  code       varchar(20) NOT NULL,
  name       varchar(100) NOT NULL,
  street     varchar(120),
  zip        varchar(12),
  city       varchar(60) NOT NULL,
  country    varchar(40) NOT NULL,
  website    varchar(120),
  is_deleted tinyint(1) NOT NULL,
  phone      varchar(40),
  email      varchar(120),
  KEY (code)
);
CREATE TABLE account_address (
  id       int NOT NULL PRIMARY KEY,
  party_id int NOT NULL,
  line     varchar(200) NOT NULL,
  KEY (party_id)
);
-- What all things of the CRM have in common, and what only organisations have: one number, made here.
CREATE TABLE entity (
  id       int NOT NULL AUTO_INCREMENT PRIMARY KEY,
  kind     varchar(20) NOT NULL,
  title    varchar(120) NOT NULL,
  created  datetime(6) NOT NULL
);
CREATE TABLE organisation (
  entity_id int NOT NULL PRIMARY KEY,
  party_id  int NOT NULL UNIQUE,
  code      varchar(20) NOT NULL,
  sites     int NOT NULL,
  FOREIGN KEY (entity_id) REFERENCES entity (id)
);
CREATE TABLE product (
  id         int NOT NULL AUTO_INCREMENT PRIMARY KEY,
  variant_id int NOT NULL UNIQUE,
  code       varchar(30) NOT NULL,
  title      varchar(150) NOT NULL,
  unit       varchar(10) NOT NULL,
  unit_price decimal(10, 2),
  is_active  tinyint(1) NOT NULL,
  KEY (code)
);
CREATE TABLE product_stock (
  variant_id int NOT NULL PRIMARY KEY,
  quantity   decimal(14, 3) NOT NULL
);
CREATE TABLE sales_order (
  id        int NOT NULL PRIMARY KEY,
  number    varchar(20) NOT NULL,
  party_id  int NOT NULL,
  currency  char(3) NOT NULL,
  status    varchar(20) NOT NULL,
  issued_on date,
  total     decimal(16, 2),
  KEY (number),
  FOREIGN KEY (party_id) REFERENCES account (party_id)
);
CREATE TABLE order_line (
  id         int NOT NULL PRIMARY KEY,
  order_id   int NOT NULL,
  position   int NOT NULL,
  product_id int,
  quantity   decimal(14, 3) NOT NULL,
  unit_price decimal(12, 2) NOT NULL,
  FOREIGN KEY (order_id) REFERENCES sales_order (id),
  FOREIGN KEY (product_id) REFERENCES product (variant_id)
);
CREATE TABLE opportunity (
  id         bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
  account_id int NOT NULL,
  title      varchar(200) NOT NULL,
  phase      varchar(30) NOT NULL,
  estimated  int,
  chance     int,
  FOREIGN KEY (account_id) REFERENCES account (id)
);

-- The ERP knows an account by its party's number.
CREATE VIEW export_opportunity AS
SELECT o.id, a.party_id, o.title, o.phase, o.estimated, o.chance
FROM opportunity o JOIN account a ON a.id = o.account_id;

DELIMITER //
-- Makes it so, whatever is there: it may be called again with the same.
CREATE PROCEDURE put_supplier(p_party_id int, p_code varchar(20), p_title varchar(120), p_sites int)
BEGIN
  DECLARE known int DEFAULT NULL;
  SELECT o.entity_id INTO known FROM organisation o WHERE o.party_id = p_party_id;
  IF known IS NULL THEN
    INSERT INTO entity (kind, title, created) VALUES ('organisation', p_title, now(6));
    INSERT INTO organisation (entity_id, party_id, code, sites) VALUES (LAST_INSERT_ID(), p_party_id, p_code, p_sites);
  ELSE
    UPDATE entity e SET e.title = p_title WHERE e.id = known;
    UPDATE organisation o SET o.code = p_code, o.sites = p_sites WHERE o.entity_id = known;
  END IF;
END//
CREATE PROCEDURE remove_supplier(p_party_id int)
BEGIN
  DECLARE known int DEFAULT NULL;
  SELECT o.entity_id INTO known FROM organisation o WHERE o.party_id = p_party_id;
  DELETE FROM organisation WHERE entity_id = known;
  DELETE FROM entity WHERE id = known;
END//
DELIMITER ;
