//! The console: who sees and does what, and its pages in a browser.

mod access;
mod browser;
mod figures;

use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method};

/// Somebody with a browser.
#[derive(Clone)]
struct Visitor {
    client: Client,
    address: String,
    cookie: Option<String>,
}

/// What a browser gets.
struct Page {
    status: u16,
    /// Where it is sent.
    location: Option<String>,
    cookie: Option<String>,
    body: String,
}

impl Visitor {
    /// Somebody who is not logged in.
    fn new(address: &str) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        Self {
            client,
            address: address.to_owned(),
            cookie: None,
        }
    }

    /// Somebody who has logged in with a token.
    async fn with_token(address: &str, token: &str) -> Self {
        let mut visitor = Self::new(address);
        let page = visitor.post("/console/login", &[("token", token)]).await;
        assert_eq!(
            (page.status, page.location.as_deref()),
            (303, Some("/console")),
            "{}",
            page.body
        );
        visitor.cookie = page.cookie;
        visitor
    }

    async fn get(&self, path: &str) -> Page {
        self.send(Method::GET, path, None, "").await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let own = format!("http://{}", self.address);
        self.send(Method::POST, path, Some(form), &own).await
    }

    /// Makes a request, and again where it is one too many for a moment.
    async fn send(
        &self,
        method: Method,
        path: &str,
        form: Option<&[(&str, &str)]>,
        origin: &str,
    ) -> Page {
        loop {
            let url = format!("http://{}{path}", self.address);
            let mut request = self.client.request(method.clone(), url);
            if let Some(cookie) = &self.cookie {
                request = request.header(COOKIE, cookie);
            }
            if let Some(form) = form {
                let body = url::form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(form)
                    .finish();
                request = request
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body);
                request = request.header(ORIGIN, origin);
            }
            let answer = request.send().await.unwrap();
            let text = |name| {
                let value = answer.headers().get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            let cookie = text(SET_COOKIE).map(|whole| whole.split(';').next().unwrap().to_owned());
            let (status, location) = (answer.status().as_u16(), text(LOCATION));
            assert!(
                text("content-security-policy".parse().unwrap()).is_some(),
                "{path}"
            );
            let body = answer.text().await.unwrap();
            if status != 429 {
                return Page {
                    status,
                    location,
                    cookie,
                    body,
                };
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}
