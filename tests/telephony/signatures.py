"""Signs requests with the official package of Twilio, and says what it thinks of signatures that are not right."""

import json
import sys

from twilio.request_validator import RequestValidator

token = sys.argv[1]
validator = RequestValidator(token)
form = {"CallSid": "CA1", "From": "+4930123456", "FromCountry": "DE", "Zeichen": "ä&=+ ö", "Empty": ""}
urls = [
    "https://node.example/v1/telephony/incoming",
    "https://node.example:8443/v1/telephony/incoming?assistant=front-desk&x=%20",
    "wss://node.example/v1/telephony/stream",
    "wss://node.example:443/v1/telephony/stream",
]
signed = []
for url in urls:
    for fields in ({}, form):
        signature = validator.compute_signature(url, fields)
        assert validator.validate(url, fields, signature)
        signed.append({"url": url, "form": list(fields.items()), "signature": signature})
print(json.dumps(signed))
