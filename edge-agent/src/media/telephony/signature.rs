//! Whether a request is Twilio's: `X-Twilio-Signature` is the HMAC-SHA1 of the address as Twilio knows it, and of the form, under the
//! account's auth token.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The header that carries the signature.
pub const HEADER: &str = "x-twilio-signature";

/// Whether `signature` signs this address and the fields of a form; a request without a form has none.
///
/// Twilio signs the address sometimes with its port and sometimes without, so both are tried.
pub fn holds(token: &[u8], url: &str, form: &[(String, String)], signature: &str) -> bool {
    let Ok(tag) = STANDARD.decode(signature) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token);
    let mut fields: Vec<&(String, String)> = form.iter().collect();
    fields.sort();
    fields.dedup();
    let fields: String = fields.into_iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
    spellings(url).iter().any(|url| hmac::verify(&key, format!("{url}{fields}").as_bytes(), &tag).is_ok())
}

/// An address as it stands, without its port, and with the one that its scheme implies.
fn spellings(url: &str) -> Vec<String> {
    let mut spellings = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return spellings };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // The colons of an IPv6 address stand before its bracket.
    match authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        Some((host, _)) => spellings.push(format!("{scheme}://{host}{path}")),
        None => {
            let port = if matches!(scheme, "https" | "wss") { 443 } else { 80 };
            spellings.push(format!("{scheme}://{authority}:{port}{path}"));
        }
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_example_of_the_documentation_holds_and_nothing_beside_it() {
        let fields = form(&[
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+12349013030"),
            ("Digits", "1234"),
            ("From", "+12349013030"),
            ("To", "+18005551212"),
        ]);
        let (token, url) = (b"12345", "https://mycompany.com/myapp.php?foo=1&bar=2");
        let signature = "0/KCTR6DLpKmkAf8muzZqo1nDgQ=";
        assert!(holds(token, url, &fields, signature));
        let mut turned = fields.clone();
        turned.reverse();
        assert!(holds(token, url, &turned, signature), "the order of the fields does not matter");
        assert!(holds(token, "https://mycompany.com:443/myapp.php?foo=1&bar=2", &fields, signature));
        assert!(!holds(b"12346", url, &fields, signature));
        assert!(!holds(token, "https://mycompany.com/myapp.php?foo=1&bar=3", &fields, signature));
        assert!(!holds(token, url, &fields[1..], signature));
        for wrong in ["", "0/KCTR6DLpKmkAf8muzZqo1nDgQ", "0/KCTR6DLpKmkAf8muzZqo1nDgV=", "no base64 at all"] {
            assert!(!holds(token, url, &fields, wrong), "{wrong}");
        }
    }
}
