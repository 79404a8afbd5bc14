#!/bin/sh
# Gives the service a user of MinIO that has its bucket alone; may be run again, with changed keys too.
# usage: store-user.sh http://s3:9000 [folder of the secrets]
set -eu
secrets=${2:-/run/secrets}
policy=$(dirname "$0")/store-policy.json
# In the environment, and on standard input: arguments can be read by others.
MC_HOST_store="${1%%://*}://$(cat "$secrets/s3_root_user"):$(cat "$secrets/s3_root_password")@${1#*://}"
export MC_HOST_store
mc admin policy create store rmbg-bucket "$policy"
user=$(cat "$secrets/s3_access_key")
printf '%s\n%s\n' "$user" "$(cat "$secrets/s3_secret_key")" | mc admin user add store
# It refuses to attach what is attached.
mc admin policy attach store rmbg-bucket --user "$user" || mc admin user info store "$user" | grep -q rmbg-bucket
