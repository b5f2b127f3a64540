#!/bin/bash
# Runs once, in an empty data folder: the shop's table, the application's account, and rowbust's with what docs/binlog.md asks for.
set -euo pipefail

secret() { cat "${SECRETS:-/run/secrets}/$1"; }
# What a password must not end in SQL.
quoted() { printf "'%s'" "$(secret "$1" | sed "s/[\\\\']/\\\\&/g")"; }

sql() {
    cat <<SQL
CREATE DATABASE IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.products (
    id INT UNSIGNED PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    price DECIMAL(10,2) NOT NULL,
    category_id INT UNSIGNED NOT NULL,
    version INT UNSIGNED NOT NULL DEFAULT 1,
    updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
);
INSERT IGNORE INTO shop.products (id, name, price, category_id)
WITH RECURSIVE ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 500)
SELECT id, CONCAT('product number ', id), id % 97 + 0.99, id % 10 FROM ids;

CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY $(quoted mysql_app);
GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO app@'%';
CREATE USER IF NOT EXISTS rowbust@'%' IDENTIFIED BY $(quoted mysql_rowbust);
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO rowbust@'%';
GRANT SELECT ON shop.* TO rowbust@'%';
SQL
}

# The image's entry point sources this file or runs it; by hand, `SQL_CLIENT` is the client to use.
if [ -n "${SQL_CLIENT:-}" ]; then
    sql | $SQL_CLIENT
else
    sql | mysql --protocol=socket -uroot -p"$(secret mysql_root)"
fi
