#!/bin/sh
# Write the secrets of a tracking server into FILE, mode 600, unless it is there:
#     sh mlflow/secrets.sh FILE
# Nothing is printed but the name. `env.example` says what the settings mean.
set -eu
file=${1:?usage: sh mlflow/secrets.sh FILE}
[ ! -e "$file" ] || { echo "$file is there: kept"; exit 0; }
umask 077
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
written="$file.$$"
cat > "$written" <<END
MLFLOW_AUTH_ADMIN_USERNAME=admin
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret)
POSTGRES_PASSWORD=$(secret)
MINIO_ROOT_USER=mlflow
MINIO_ROOT_PASSWORD=$(secret)
END
mv "$written" "$file"
echo "$file written, mode 600"
