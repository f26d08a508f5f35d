#!/bin/sh
# Redis with a password, which is made at the first start. It stands in a file, as part of the URL by which the
# gateways find Redis, and neither in the environment nor on a command line. `redis.sh ping` asks for health.
set -eu
umask 077
secret=/run/dreamr/dreamr_gateway_redis
if [ ! -s "$secret" ]; then
  printf 'redis://:%s@redis:6379/0' "$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n')" > "$secret.new"
  mv "$secret.new" "$secret"
fi
password=$(sed 's|^redis://:\(.*\)@.*|\1|' "$secret")
if [ "${1:-}" = ping ]; then
  [ "$(REDISCLI_AUTH=$password timeout 4 redis-cli ping)" = PONG ]
  exit
fi
exec redis-server - <<END
requirepass $password
bind * -::*
dir /data
save ""
appendonly yes
appendfsync everysec
maxmemory ${REDIS_MAXMEMORY:-192mb}
maxmemory-policy noeviction
END
