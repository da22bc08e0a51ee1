"""An S3-compatible server of other people's (moto) on a free port of this machine, with one bucket and one user who may use it.

Prints where it is and the user's key as JSON, and ends when its standard input does."""

import json
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
root = dict(endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="root", aws_secret_access_key="root")
boto3.client("s3", **root).create_bucket(Bucket="models")
iam = boto3.client("iam", **root)
iam.create_user(UserName="plane")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="plane", PolicyName="all", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="plane")["AccessKey"]
# From here on signatures and policies are judged.
plain = {"Content-Type": "text/plain"}
urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", headers=plain))
print(json.dumps({"endpoint": endpoint, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
sys.stdin.read()
