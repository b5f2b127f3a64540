#!/bin/bash
# The demo application: cache-aside readers and writers on shop.products. It never deletes a key: that is rowbust's work.
# Each REPORT_SECONDS it compares every cached product with the database. A key counts as stale when its row changed more than
# SETTLED_SECONDS ago; without rowbust such keys stay, with it there are none.
#
# MYSQL_HOST MYSQL_PORT MYSQL_USER MYSQL_PASSWORD_FILE · REDIS_HOST REDIS_PORT REDIS_USER REDIS_PASSWORD_FILE
# PRODUCTS (500) · REPORT_SECONDS (5) · SETTLED_SECONDS (3) · REPORTS (0: for ever) · MYSQL_OPTIONS (client options, e.g. for TLS)
set -uo pipefail

products=${PRODUCTS:-500}
MYSQL_PWD=$(cat "$MYSQL_PASSWORD_FILE") && export MYSQL_PWD
if [ -n "${REDIS_PASSWORD_FILE:-}" ]; then
    REDISCLI_AUTH=$(cat "$REDIS_PASSWORD_FILE") && export REDISCLI_AUTH
fi

sql() {
    # shellcheck disable=SC2086 # options are words
    mariadb --no-defaults ${MYSQL_OPTIONS:-} -h "$MYSQL_HOST" -P "${MYSQL_PORT:-3306}" -u "$MYSQL_USER" --batch --skip-column-names shop -e "$1"
}
cache() { redis-cli -h "$REDIS_HOST" -p "${REDIS_PORT:-6379}" ${REDIS_USER:+--user "$REDIS_USER"} "$@" 2>/dev/null; }

reads=0 hits=0 writes=0 errors=0 reports=0

read_one() {
    local id=$1 value
    reads=$((reads + 1))
    value=$(cache GET "product:$id") || { errors=$((errors + 1)); return; }
    if [ -n "$value" ]; then
        hits=$((hits + 1))
        return
    fi
    value=$(sql "SELECT version, price, name FROM products WHERE id = $id") || { errors=$((errors + 1)); return; }
    cache SET "product:$id" "$value" EX 3600 >/dev/null || errors=$((errors + 1))
}

write_one() {
    sql "UPDATE products SET price = price + 0.01, version = version + 1 WHERE id = $1" || { errors=$((errors + 1)); return; }
    writes=$((writes + 1))
}

report() {
    local rows cached=0 stale=0 id version settled value keys
    rows=$(sql "SELECT id, version, updated_at < NOW(3) - INTERVAL ${SETTLED_SECONDS:-3} SECOND FROM products ORDER BY id") || { echo "database doesn't answer"; return; }
    mapfile -t keys < <(awk '{ print "product:" $1 }' <<<"$rows")
    mapfile -t values < <(cache --raw MGET "${keys[@]}" | cut -f1)
    if [ "${#values[@]}" -ne "${#keys[@]}" ]; then
        echo "redis doesn't answer"
        return
    fi
    local at=0
    while read -r id version settled; do
        value=${values[at]}
        at=$((at + 1))
        [ -n "$value" ] || continue
        cached=$((cached + 1))
        if [ "$settled" = 1 ] && [ "$value" != "$version" ]; then stale=$((stale + 1)); fi
    done <<<"$rows"
    echo "$(date +%T)  reads $reads  hits $hits  writes $writes  errors $errors  cached $cached  STALE $stale"
}

next=$((SECONDS + ${REPORT_SECONDS:-5}))
while :; do
    # A few products are hot.
    hot=$((RANDOM % 20 + 1))
    read_one "$hot"
    read_one $((RANDOM % products + 1))
    write_one $((RANDOM % 3 == 0 ? hot : RANDOM % products + 1))
    if [ "$SECONDS" -ge "$next" ]; then
        report
        reports=$((reports + 1))
        [ "${REPORTS:-0}" -eq 0 ] || [ "$reports" -lt "$REPORTS" ] || exit 0
        next=$((SECONDS + ${REPORT_SECONDS:-5}))
    fi
done
