//! Who may be served where, and what is answered.

use super::*;
use crate::{desired::RouteNode, policy::Policy, region::Location};

fn route(region: &str, law: &str, at: (f64, f64), countries: &[&str], up: &[bool]) -> Route {
    Route {
        region: region.parse().expect("region"),
        jurisdiction: Jurisdiction(law.into()),
        location: Location { latitude: at.0, longitude: at.1 },
        policy: Policy {
            serves_countries: countries.iter().map(|c| (*c).to_owned()).collect(),
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min: 5,
            notices: vec![],
        },
        nodes: up
            .iter()
            .enumerate()
            .map(|(i, up)| RouteNode { node: format!("{region}-{i}"), url: format!("https://{region}-{i}"), up: *up })
            .collect(),
    }
}

fn world(eu_up: bool) -> Vec<Route> {
    vec![
        route("us-east", "us", (39.0, -77.5), &["*"], &[true]),
        route("us-west", "us", (45.6, -121.2), &["*"], &[true]),
        route("eu-central", "eu", (50.1, 8.7), &["DE", "FR"], &[eu_up, false]),
        route("eu-north", "eu", (59.3, 18.1), &["SE", "DE"], &[eu_up]),
    ]
}

fn caller(countries: &[&str], at: Option<(f64, f64)>) -> Caller {
    Caller {
        countries: countries.iter().map(|code| (*code).to_owned()).collect(),
        location: at.map(|(latitude, longitude)| Location { latitude, longitude }),
    }
}

fn names(routes: &[Route], country: Option<&str>, at: Option<(f64, f64)>) -> Result<Vec<String>, NoRoute> {
    nodes(nearest(routes, &caller(country.as_slice(), at)))
}

fn nodes(answer: Result<RouteAnswer, NoRoute>) -> Result<Vec<String>, NoRoute> {
    answer.map(|answer| answer.nodes.into_iter().map(|node| node.node).collect())
}

#[test]
fn law_comes_before_distance() {
    let berlin = Some((52.5, 13.4));
    assert_eq!(names(&world(true), Some("DE"), berlin).expect("nodes"), ["eu-central-0", "eu-north-0"]);
    assert_eq!(names(&world(true), Some("SE"), None).expect("nodes"), ["eu-north-0"]);
    // A German in New York stays at home; everybody else goes to the nearest.
    assert_eq!(names(&world(true), Some("DE"), Some((40.7, -74.0))).expect("nodes").len(), 2);
    assert_eq!(names(&world(true), Some("US"), Some((37.8, -122.4))).expect("nodes"), ["us-west-0", "us-east-0"]);
    assert_eq!(names(&world(true), Some("US"), None).expect("nodes").len(), 2);
}

#[test]
fn with_no_permitted_node_up_the_caller_is_refused_with_the_reason() {
    let said = names(&world(false), Some("DE"), None).expect_err("refused");
    assert_eq!(said, NoRoute::NoneUp { regions: "eu-central, eu-north".into() });
    // Italy is listed nowhere, yet it is in the Union: the wildcard of another jurisdiction does not catch it.
    let said = names(&world(true), Some("IT"), None).expect_err("refused");
    assert!(
        matches!(&said, NoRoute::NotPermitted { reason } if reason.contains("stay within jurisdiction `eu`")),
        "{said}"
    );
    let reunion = names(&world(true), Some("RE"), None).expect_err("refused");
    assert!(matches!(reunion, NoRoute::NotPermitted { .. }), "{reunion}");
    let only_us = &world(true)[..2];
    assert!(matches!(names(only_us, Some("FR"), None), Err(NoRoute::NotPermitted { .. })));
    assert!(matches!(names(&[], Some("FR"), None), Err(NoRoute::NotPermitted { .. })));
}

#[test]
fn every_refusal_has_one_status_for_control_plane_and_agents() {
    let reason = || "r".to_owned();
    for (refusal, status, code, again) in [
        (NoRoute::BadQuery { reason: reason() }, 400, "bad_query", false),
        (NoRoute::NotPermitted { reason: reason() }, 451, "not_permitted", false),
        (NoRoute::NotHere { reason: reason() }, 451, "caller_not_permitted", false),
        (NoRoute::NoneUp { regions: reason() }, 503, "none_up", true),
        (NoRoute::NotReady, 503, "not_ready", true),
    ] {
        let told = (refusal.http_status(), refusal.code(), refusal.retry_after_s().is_some());
        assert_eq!(told, (status, code, again), "{refusal}");
    }
}

#[test]
fn an_unknown_country_outside_the_union_goes_only_where_everybody_is_served() {
    assert_eq!(names(&world(true), None, Some((40.7, -74.0))).expect("nodes"), ["us-east-0", "us-west-0"]);
    assert_eq!(names(&world(true), None, None).expect("nodes").len(), 2);
}

/// Kassel: all around is Germany. Strasbourg: France or Germany.
const KASSEL: Option<(f64, f64)> = Some((51.3, 9.5));
const STRASBOURG: Option<(f64, f64)> = Some((48.6, 7.7));

#[test]
fn a_position_in_the_union_is_enough_to_stay_in_it() {
    let answer = nearest(&world(true), &caller(&[], KASSEL)).expect("nodes");
    assert_eq!(answer.country.as_deref(), Some("DE"));
    assert_eq!(nodes(Ok(answer)).expect("nodes"), ["eu-central-0", "eu-north-0"]);
    // Near a border both countries come into question, and only a region that serves both may answer.
    let answer = nearest(&world(true), &caller(&[], STRASBOURG)).expect("nodes");
    assert_eq!(answer.country, None);
    assert_eq!(nodes(Ok(answer)).expect("nodes"), ["eu-central-0"]);
    // With nobody up there, or nobody who serves that country, there is no node abroad either.
    assert!(matches!(names(&world(false), None, KASSEL), Err(NoRoute::NoneUp { .. })));
    let rome = names(&world(true), None, Some((41.9, 12.5))).expect_err("listed nowhere");
    assert!(matches!(&rome, NoRoute::NotPermitted { reason } if reason.contains("by the stated position")), "{rome}");
}

#[test]
fn the_strictest_of_address_statement_and_position_wins() {
    let routed = |countries: &[&str], at| nodes(nearest(&world(true), &caller(countries, at)));
    let niagara = Some((43.1, -79.0));
    for (countries, at, why) in [
        (&["US", "DE"][..], None, "a stated country does not override the address"),
        (&["DE", "US"], None, "nor the address what is stated"),
        (&["US", "DE"], niagara, "nor a position far away either of them"),
        (&["US"], KASSEL, "nor a country the position"),
        (&["DE"], KASSEL, "where all agree, all is as ever"),
    ] {
        let mut found = routed(countries, at).expect("nodes");
        found.sort();
        assert_eq!(found, ["eu-central-0", "eu-north-0"], "{why}");
    }
    // The region must serve both countries of the Union that speak for the caller: the Swede's region does not serve France.
    assert_eq!(routed(&["FR", "DE"], None), Ok(vec!["eu-central-0".to_owned()]));
    let refused = routed(&["FR", "SE"], None).expect_err("nobody serves both");
    assert!(matches!(&refused, NoRoute::NotPermitted { reason } if reason.contains("FR, SE")), "{refused}");
    // Where nothing is strict, what is stated goes before the address.
    let answer = nearest(&world(true), &caller(&["CA", "US"], None)).expect("nodes");
    assert_eq!((answer.country.as_deref(), answer.nodes.len()), (Some("CA"), 2));
}

#[test]
fn a_country_that_a_region_claims_is_stricter_than_one_that_none_does() {
    let mut routes = world(true);
    routes.push(route("ca-east", "ca", (45.5, -73.6), &["CA"], &[true]));
    let routed = |countries: &[&str]| nodes(nearest(&routes, &caller(countries, None)));
    let toronto = Ok(vec!["ca-east-0".to_owned()]);
    assert_eq!(routed(&["CA"]), toronto);
    assert_eq!(routed(&["US", "CA"]), toronto, "the address is Canadian");
    assert_eq!(routed(&["CA", "US"]), toronto, "it is stated");
    assert_eq!(routed(&["CA", "DE"]).expect("the Union goes first").len(), 2);
    routes.push(route("mx-north", "mx", (25.7, -100.3), &["MX"], &[true]));
    let both = nodes(nearest(&routes, &caller(&["CA", "MX"], None))).expect_err("two jurisdictions keep this caller");
    assert!(both.to_string().contains("CA, MX"), "{both}");
}

#[test]
fn a_query_is_read_or_refused_with_what_is_expected() {
    let peer = Some("192.0.2.1".parse().expect("address"));
    let in_france = |_| Some("FR".to_owned());
    let query = |country: Option<&str>, latitude, longitude| RouteQuery {
        country: country.map(str::to_owned),
        latitude,
        longitude,
        address: None,
    };
    let countries = |query: RouteQuery, peer| query.caller(peer, in_france).expect("caller").countries;
    assert_eq!(countries(query(Some("de"), Some(1.0), Some(2.0)), peer), ["DE", "FR"]);
    assert_eq!(countries(query(Some("fr"), None, None), peer), ["FR"], "named once");
    assert_eq!(countries(query(None, None, None), peer), ["FR"]);
    assert_eq!(query(None, None, None).caller(None, in_france).expect("caller"), Caller::default());
    // An address that is stated does not hide the one that asks.
    let by_last_byte = |address: std::net::IpAddr| match address.to_string().as_str() {
        "192.0.2.1" => Some("DE".to_owned()),
        "192.0.2.2" => Some("US".to_owned()),
        _ => None,
    };
    let asking_for = RouteQuery { address: "192.0.2.2".parse().ok(), ..RouteQuery::default() };
    assert_eq!(asking_for.caller(peer, by_last_byte).expect("caller").countries, ["US", "DE"]);
    let private = "10.0.0.1".parse().ok();
    assert_eq!(asking_for.caller(private, by_last_byte).expect("caller").countries, ["US"]);
    for bad in [
        query(Some("DEU"), None, None),
        query(Some("4X"), None, None),
        query(None, Some(1.0), None),
        query(None, Some(91.0), Some(0.0)),
        query(None, Some(f64::NAN), Some(0.0)),
    ] {
        assert!(matches!(bad.caller(peer, in_france), Err(NoRoute::BadQuery { .. })), "{bad:?}");
    }
}

#[test]
fn each_country_has_one_plausible_middle() {
    for (code, _) in union::UNION {
        let middle = middle_of(code).unwrap_or_else(|| panic!("{code} has no middle"));
        // Whole degrees may fall into the sea beside a small island, so the neighbourhood counts.
        let near = |dy: f64, dx: f64| Location { latitude: middle.latitude + dy, longitude: middle.longitude + dx };
        let around = [(0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)];
        assert!(around.iter().any(|&(dy, dx)| union::may_be_in(near(dy, dx)).contains(&code)), "{code}");
    }
    assert!(countries::MIDDLES.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, none twice");
    assert!(middle_of("ZZ").is_none());
}
