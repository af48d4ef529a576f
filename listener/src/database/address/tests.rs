#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn read(url: &str, identity: bool, has_keys: bool) -> Result<PgConnectOptions, String> {
    alone(&Redacted::new(url), identity, has_keys).map_err(|error| error.to_string())
}

#[test]
fn url_that_names_local_files_is_rejected() {
    for name in FILES {
        let told = read(&format!("postgres://a@h/d?{name}=/x"), false, false).unwrap_err();
        assert!(told.contains(name), "{told}");
    }
    assert!(read("postgres://a@h/d?sslmode=require", false, false).is_ok());
}

#[test]
fn client_key_of_the_listener_is_not_presented() {
    for (url, identity, taken) in [
        ("postgres://a:b@h/d", false, false),
        ("postgres://a:b@h/d", true, true),
        ("postgres://a:b@h/d?sslmode=disable", false, true),
    ] {
        let read = read(url, identity, true);
        assert_eq!(read.is_ok(), taken, "{url}: {read:?}");
    }
}

#[test]
fn host_comes_from_the_url_only() {
    assert!(read("postgres:///d", false, false).is_err());
    assert!(read("postgres:///d?host=h", false, false).is_ok());
}

#[test]
fn missing_parameters_are_not_taken_from_the_environment() {
    let shown = |url: &str| format!("{:?}", read(url, false, false).unwrap());
    assert!(shown("postgres://a@h/d").contains(r#"password: Some("")"#));
    for url in ["postgres://a:b@h/d", "postgres://a@h/d?password=b"] {
        assert!(shown(url).contains(r#"password: Some("b")"#), "{url}");
    }
}
