//! A browser of a test's own: Chromium without a window, used as a person uses it.
//!
//! It runs no JavaScript unless it is told to, since our pages have to work without.

use std::{fs, path::Path};

use fantoccini::{
    Client, ClientBuilder, Locator, elements::Element, wd::WebDriverCompatibleCommand,
};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{ParseError, Url};

use crate::{
    start::until,
    tools::{self, Leashed},
};

/// What packages call it. Chrome is the same for a page.
const CHROMIUM: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// Below this width a screen is taken for that of a phone, which honours the page's `viewport`.
const PHONE: u32 = 600;

/// A running browser; it ends when this is dropped.
pub struct Browser {
    client: Client,
    // Dropped before the folder that it writes into.
    _driver: Leashed,
    _folder: TempDir,
}

impl Browser {
    pub async fn start() -> Self {
        // What the settings of a browser say where its owner has blocked JavaScript.
        let blocked = json!({"profile.managed_default_content_settings.javascript": 2});
        Self::start_with(blocked).await
    }

    pub async fn start_with_javascript() -> Self {
        Self::start_with(json!({})).await
    }

    async fn start_with(preferences: Value) -> Self {
        let script = "scripts/ensure-chromium";
        let chromium = tools::find("CHROMIUM", &CHROMIUM, script);
        let driver = tools::find("CHROMEDRIVER", &["chromedriver"], script);
        let folder = tempfile::Builder::new().prefix("tenantry-browser-").tempdir().unwrap();

        let mut driver = Leashed::start(&driver, &["--port=0".into()], &folder);
        let port: u16 = driver.ready(async |said| port_in(said)).await;
        // Root may not have a sandbox, and containers have little shared memory.
        let arguments = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            format!("--user-data-dir={}", folder.path().join("profile").display()),
        ]);
        let options = json!({"binary": chromium, "args": arguments, "prefs": preferences});
        let capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, _driver: driver, _folder: folder }
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub async fn title(&self) -> String {
        self.client.title().await.unwrap()
    }

    /// The text that is visible on the page.
    pub async fn text(&self) -> String {
        self.find("body").await.text().await.unwrap()
    }

    /// Clicks what does not lead to another page, such as a box to tick.
    pub async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Presses the button or the link on which this text is seen, and waits until its page is left.
    /// What is asked of the browser next, it answers of the new page.
    pub async fn press(&self, text: &str) {
        let mut there = Vec::new();
        let all = Locator::Css("button, input[type=submit], a[href]");
        for pressed in self.client.find_all(all).await.unwrap() {
            let caption = caption(&pressed).await;
            if caption == text {
                pressed.click().await.unwrap();
                // A click is over before what it leads to has begun.
                let is_gone = async || match pressed.tag_name().await {
                    Ok(_) => false,
                    Err(error) => error.is_stale_element_reference(),
                };
                return until(&format!("another page after {text:?}"), is_gone).await;
            }
            there.push(caption);
        }
        panic!("there is no {text:?} to press, but {there:?}");
    }

    /// Writes into a field, instead of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Makes a PNG of the page, as wide and as high as a screen; the browser stays so.
    pub async fn screenshot(&self, path: &Path, (width, height): (u32, u32)) {
        let screen = json!({
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < PHONE,
        });
        // A window can be neither as narrow as a phone nor without a frame.
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }

    /// What a screen reader is told: role and name of each thing, in the order of the page.
    pub async fn accessible(&self) -> Vec<(String, String)> {
        let mut tree = self.devtools("Accessibility.getFullAXTree", json!({})).await;
        let nodes: Vec<Value> = serde_json::from_value(tree["nodes"].take()).unwrap();
        let mut told = Vec::new();
        tell(&nodes, &nodes[0], &mut told);
        told
    }

    async fn find(&self, css: &str) -> Element {
        let found = self.client.find(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// Runs a command that Chromium knows and WebDriver does not.
    async fn devtools(&self, name: &'static str, parameters: Value) -> Value {
        self.client.issue_cmd(DevTools { name, parameters }).await.unwrap()
    }
}

/// The port in what the driver says when it is ready.
fn port_in(said: &str) -> Option<u16> {
    let (_, port) = said.split_once("started successfully on port ")?;
    port.split_once('.')?.0.parse().ok()
}

async fn caption(pressed: &Element) -> String {
    match pressed.text().await.unwrap() {
        text if text.is_empty() => pressed.attr("value").await.unwrap().unwrap_or_default(),
        text => text,
    }
}

/// Tells a node and all below it, but for what is there only for layout.
fn tell(nodes: &[Value], node: &Value, told: &mut Vec<(String, String)>) {
    let text = |property: &str| node[property]["value"].as_str().unwrap_or_default().to_owned();
    let (role, name) = (text("role"), text("name"));
    let of_layout = ["InlineTextBox", "generic", "none"].contains(&role.as_str());
    if node["ignored"] == false && !of_layout {
        told.push((role, name));
    }
    for child in node["childIds"].as_array().into_iter().flatten() {
        if let Some(child) = nodes.iter().find(|node| node["nodeId"] == *child) {
            tell(nodes, child, told);
        }
    }
}

#[derive(Debug)]
struct DevTools {
    name: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        let body = json!({"cmd": self.name, "params": self.parameters});
        (Method::POST, Some(body.to_string()))
    }
}

/// Serves a page with a form that answers with what was sent, and tells its address.
async fn page() -> String {
    use axum::{
        Router,
        response::Html,
        routing::{get, post},
    };

    const FORM: &str = r#"<!doctype html><html lang="en"><head><title>Consent</title>
        <meta name="viewport" content="width=device-width"></head>
        <body style="margin: 0"><h1>Do you agree?</h1><p id="script">without JavaScript</p>
        <form method="post" action="/answer"><label for="name">Your name</label>
        <input id="name" name="name" value="nobody"><input type="checkbox" name="terms">
        <button name="answer" value="no">No</button>
        <button name="answer" value="yes">Yes, I agree</button></form>
        <a href="/elsewhere">Elsewhere</a>
        <script>document.getElementById("script").textContent = "with JavaScript"</script>
        </body></html>"#;
    let answer = async |body: String| Html(format!("<title>Answered</title><p>{body}</p>"));
    let pages = Router::new()
        .route("/", get(Html(FORM)))
        .route("/answer", post(answer))
        .route("/elsewhere", get(Html("<title>Elsewhere</title>")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, pages).into_future());
    format!("http://{address}/")
}

#[tokio::test]
async fn a_browser_fills_in_a_form_without_javascript() {
    let (page, browser) = (page().await, Browser::start().await);

    browser.open(&page).await;
    let before = (browser.title().await, browser.text().await);
    browser.fill("#name", "Ada Lovelace").await;
    browser.click("[name=terms]").await;
    browser.press("Yes, I agree").await;

    assert_eq!(before.0, "Consent");
    assert!(before.1.contains("without JavaScript"), "{}", before.1);
    assert_eq!(browser.title().await, "Answered");
    assert_eq!(browser.text().await, "name=Ada+Lovelace&terms=on&answer=yes");
}

#[tokio::test]
async fn two_browsers_are_two_people_and_one_of_them_may_run_javascript() {
    let page = page().await;
    let (one, other) = tokio::join!(Browser::start(), Browser::start_with_javascript());

    tokio::join!(one.open(&page), other.open(&page));
    one.press("Elsewhere").await;

    assert_eq!(one.title().await, "Elsewhere");
    assert!(other.text().await.contains("with JavaScript"));
}

#[tokio::test]
async fn a_screen_reader_is_told_what_to_answer_and_with_which_buttons() {
    let (page, browser) = (page().await, Browser::start().await);

    browser.open(&page).await;
    let told = browser.accessible().await;

    let told: Vec<_> = told.iter().map(|(role, name)| (role.as_str(), name.as_str())).collect();
    let expected =
        [("heading", "Do you agree?"), ("textbox", "Your name"), ("button", "Yes, I agree")];
    let places = expected.map(|thing| told.iter().position(|told| *told == thing));
    assert!(places.is_sorted() && places[0].is_some(), "{places:?} in {told:?}");
}

#[tokio::test]
async fn a_screenshot_is_as_large_as_the_screen() {
    let (page, browser) = (page().await, Browser::start().await);
    let folder = TempDir::new().unwrap();
    browser.open(&page).await;

    for screen in [(420, 800), (1000, 900)] {
        let path = folder.path().join("page.png");
        browser.screenshot(&path, screen).await;

        // A PNG tells its width and height first.
        let png = fs::read(&path).unwrap();
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), screen);
    }
}
