#!/bin/sh
# Redis with a password, which is made at the first start. It stands in files, one of them the URL by which the gateways
# find Redis, and neither in the environment nor on a command line. `redis.sh ping` asks for health.
# With a certificate in /run/secrets (docker-compose.tls.yml) Redis serves mutual TLS, and nothing else.
set -eu
umask 077
url=/run/dreamr/dreamr_gateway_redis
tls=/run/secrets/redis
if [ "${1:-}" = ping ]; then
  REDISCLI_AUTH=$(sed 's|^rediss*://:\(.*\)@.*|\1|' "$url")
  export REDISCLI_AUTH
  [ ! -e $tls ] || set -- ping --tls --cacert /run/secrets/ca --cert $tls --key $tls-key --sni redis
  shift
  [ "$(timeout 4 redis-cli "$@" ping)" = PONG ]
  exit
fi
# Where it cannot be written, as from a secret of Kubernetes, the URL is there already.
if [ -w /run/dreamr ]; then
  password=/run/dreamr/password
  [ -s $password ] || head -c 32 /dev/urandom | base64 | tr -d '+/=\n' > $password
  if [ -e $tls ]; then
    files='ssl_ca_certs=/run/secrets/ca&ssl_certfile=/run/secrets/gateway&ssl_keyfile=/run/secrets/gateway-key'
    printf 'rediss://:%s@redis:6379/0?%s' "$(cat $password)" "$files" > $url.new
  else
    printf 'redis://:%s@redis:6379/0' "$(cat $password)" > $url.new
  fi
  mv $url.new $url
fi
if [ -e $tls ]; then
  ports="port 0
tls-port 6379
tls-ca-cert-file /run/secrets/ca
tls-cert-file $tls
tls-key-file $tls-key"
else
  ports='port 6379'
fi
exec redis-server - <<END
$ports
requirepass $(sed 's|^rediss*://:\(.*\)@.*|\1|' "$url")
bind * -::*
dir /data
save ""
appendonly yes
appendfsync everysec
maxmemory ${REDIS_MAXMEMORY:-192mb}
maxmemory-policy noeviction
END
