//! The part of the world where the General Data Protection Regulation is law: the European Union, the three EEA states beside
//! it, and the parts of member states that have a country code of their own (the outermost regions of France, article 355
//! TFEU, and Åland).
//!
//! They are at home in the jurisdiction `eu` even while no region there is configured, so that a gap in the configuration
//! never exports anyone.
//!
//! Positions are judged by boxes of whole degrees around every piece of each country and 0.25 degrees (at most 28 km) beyond,
//! drawn from Natural Earth's map (public domain) and completed by hand where it leaves out islands. They err on one side only: whoever
//! is in the Union lies in a box, and so do all of Switzerland, most of Bosnia, Istanbul and the corner of Kent. A finer map would be
//! megabytes for the few who state a position near a border, and the price of the coarse one is that they are served under the stricter
//! law. Overseas parts outside the Union (Greenland, Svalbard, the Dutch Caribbean, ...) have codes of their own and no box.

use crate::region::Location;

/// South, north, west and east in whole degrees; south and west are inside, north and east are not.
type Degrees = (i8, i8, i16, i16);

/// ISO 3166-1 alpha-2 code of each country, sorted, and the boxes that hold all of it.
#[rustfmt::skip]
pub(super) const UNION: [(&str, &[Degrees]); 37] = [
    ("AT", &[(46, 47, 9, 17), (47, 48, 9, 18), (48, 49, 12, 18), (49, 50, 13, 17)]),
    ("AX", &[(59, 61, 19, 22)]),
    ("BE", &[(49, 50, 3, 7), (50, 52, 2, 7)]),
    ("BG", &[(40, 41, 25, 26), (41, 45, 22, 29)]),
    ("CY", &[(34, 36, 32, 35)]),
    ("CZ", &[(48, 49, 12, 19), (49, 50, 11, 20), (50, 51, 11, 19), (51, 52, 13, 16)]),
    ("DE", &[(47, 48, 7, 14), (48, 49, 6, 15), (49, 50, 5, 14), (50, 53, 5, 16), (53, 54, 6, 15), (54, 55, 7, 15),
        (55, 56, 8, 11)]),
    ("DK", &[(54, 55, 8, 13), (54, 56, 14, 16), (55, 57, 7, 13), (57, 58, 8, 12), (58, 59, 10, 11)]),
    ("EE", &[(57, 60, 21, 29)]),
    ("ES", &[(27, 29, -19, -13), (29, 30, -19, -17), (29, 30, -15, -13), (34, 35, -5, -2), (35, 36, -7, -2),
        (36, 37, -8, -1), (37, 38, -8, 0), (38, 39, -8, 4), (39, 41, -8, 5), (41, 43, -10, 4), (43, 44, -10, 2),
        (44, 45, -8, -7)]),
    ("FI", &[(59, 60, 21, 27), (60, 61, 20, 30), (61, 62, 20, 31), (62, 64, 20, 32), (64, 65, 22, 31),
        (65, 67, 23, 31), (67, 68, 22, 31), (68, 70, 20, 30), (70, 71, 26, 29)]),
    ("FR", &[(41, 43, 8, 10), (42, 43, -2, 4), (42, 43, 5, 7), (43, 44, -3, 8), (43, 44, 9, 10), (44, 46, -2, 8),
        (46, 47, -3, 8), (47, 48, -5, 8), (48, 49, -6, 9), (49, 50, -4, 9), (50, 51, 0, 6), (51, 52, 1, 4)]),
    ("GF", &[(1, 3, -55, -52), (3, 6, -55, -51)]),
    ("GP", &[(15, 17, -63, -60)]),
    ("GR", &[(34, 35, 23, 27), (35, 36, 22, 29), (36, 37, 21, 30), (37, 38, 20, 28), (38, 39, 19, 28),
        (39, 41, 19, 27), (41, 42, 20, 27), (42, 43, 26, 27)]),
    ("HR", &[(42, 43, 15, 19), (43, 44, 14, 19), (44, 46, 13, 20), (46, 47, 15, 20)]),
    ("HU", &[(45, 46, 16, 22), (46, 47, 15, 23), (47, 48, 15, 24), (48, 49, 16, 24)]),
    ("IE", &[(51, 52, -11, -6), (52, 55, -11, -5), (55, 56, -9, -6)]),
    ("IS", &[(63, 64, -23, -15), (64, 66, -25, -13), (66, 67, -25, -14)]),
    ("IT", &[(35, 36, 12, 14), (36, 37, 11, 16), (37, 38, 11, 17), (38, 39, 8, 10), (38, 39, 11, 18), (39, 40, 7, 10),
        (39, 40, 14, 19), (40, 41, 7, 11), (40, 41, 12, 19), (41, 42, 7, 10), (41, 42, 11, 18), (42, 43, 9, 17),
        (43, 44, 6, 15), (44, 45, 6, 14), (45, 46, 6, 15), (46, 47, 6, 14), (47, 48, 10, 13)]),
    ("LI", &[(46, 48, 9, 10)]),
    ("LT", &[(53, 54, 23, 26), (54, 55, 21, 27), (55, 56, 20, 28), (56, 57, 20, 27)]),
    ("LU", &[(49, 51, 5, 7)]),
    ("LV", &[(55, 56, 20, 22), (55, 56, 24, 29), (56, 58, 20, 29), (58, 59, 22, 23), (58, 59, 24, 27)]),
    ("MF", &[(17, 19, -64, -62)]),
    ("MQ", &[(14, 16, -62, -60)]),
    ("MT", &[(35, 37, 13, 15)]),
    ("NL", &[(50, 51, 3, 7), (51, 53, 3, 8), (53, 54, 4, 8)]),
    ("NO", &[(57, 58, 6, 9), (58, 59, 4, 12), (59, 61, 4, 13), (61, 62, 4, 14), (62, 63, 4, 13), (63, 64, 6, 15),
        (64, 65, 8, 15), (65, 66, 10, 16), (66, 67, 12, 17), (67, 68, 12, 19), (68, 69, 12, 27), (68, 69, 28, 30),
        (69, 70, 14, 32), (70, 71, 18, 32), (71, 72, 22, 30)]),
    ("PL", &[(48, 49, 19, 24), (49, 50, 16, 24), (50, 52, 14, 25), (52, 54, 13, 25), (54, 55, 13, 24),
        (55, 56, 17, 19)]),
    ("PT", &[(29, 31, -17, -15), (32, 34, -18, -16), (36, 37, -26, -24), (36, 37, -10, -7), (37, 38, -27, -24),
        (37, 41, -10, -6), (38, 39, -30, -24), (39, 40, -32, -30), (39, 40, -29, -26), (41, 42, -10, -5),
        (42, 43, -10, -6)]),
    ("RE", &[(-22, -20, 54, 57)]),
    ("RO", &[(43, 44, 22, 29), (44, 45, 21, 30), (45, 46, 20, 30), (46, 47, 19, 29), (47, 48, 21, 29),
        (48, 49, 22, 28)]),
    ("SE", &[(55, 56, 12, 17), (56, 57, 11, 19), (57, 58, 11, 20), (58, 60, 10, 20), (60, 61, 11, 20),
        (61, 62, 11, 18), (62, 63, 11, 20), (63, 64, 11, 22), (64, 65, 12, 22), (65, 66, 13, 25), (66, 67, 14, 25),
        (67, 68, 15, 25), (68, 69, 16, 24), (69, 70, 19, 22)]),
    ("SI", &[(45, 46, 13, 16), (46, 47, 13, 17), (47, 48, 15, 17)]),
    ("SK", &[(47, 48, 16, 21), (48, 50, 16, 23)]),
    ("YT", &[(-14, -12, 44, 46)]),
];

/// Whether the law of the Union holds in a country (ISO 3166-1 alpha-2, upper case).
pub(super) fn is_in_union(country: &str) -> bool {
    UNION.binary_search_by_key(&country, |(code, _)| code).is_ok()
}

/// The countries of the Union that a position may lie in; none where it is surely outside.
pub(super) fn may_be_in(at: Location) -> Vec<&'static str> {
    let inside = |&(south, north, west, east): &Degrees| {
        (f64::from(south)..f64::from(north)).contains(&at.latitude)
            && (f64::from(west)..f64::from(east)).contains(&at.longitude)
    };
    UNION.iter().filter(|(_, boxes)| boxes.iter().any(inside)).map(|(code, _)| *code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_be(latitude: f64, longitude: f64) -> Vec<&'static str> {
        may_be_in(Location { latitude, longitude })
    }

    /// Capitals, and the ends and islands that a box is most likely to miss.
    const INSIDE: &[(&str, f64, f64)] = &[
        ("AT", 48.21, 16.37),  // Vienna
        ("AT", 47.27, 9.60),   // Feldkirch
        ("AX", 60.10, 19.94),  // Mariehamn
        ("BE", 50.85, 4.35),   // Brussels
        ("BG", 42.70, 23.32),  // Sofia
        ("CY", 35.17, 33.36),  // Nicosia
        ("CZ", 50.09, 14.42),  // Prague
        ("DE", 52.52, 13.40),  // Berlin
        ("DE", 54.18, 7.89),   // Heligoland
        ("DE", 47.41, 10.28),  // Oberstdorf
        ("DE", 50.78, 6.08),   // Aachen
        ("DK", 55.68, 12.57),  // Copenhagen
        ("DK", 55.10, 14.70),  // Rønne
        ("DK", 57.72, 10.58),  // Skagen
        ("EE", 59.44, 24.75),  // Tallinn
        ("ES", 40.42, -3.70),  // Madrid
        ("ES", 27.81, -17.89), // El Hierro
        ("ES", 35.89, -5.32),  // Ceuta
        ("ES", 35.29, -2.94),  // Melilla
        ("ES", 39.89, 4.27),   // Mahón
        ("ES", 36.01, -5.61),  // Tarifa
        ("FI", 60.17, 24.94),  // Helsinki
        ("FI", 69.91, 27.03),  // Utsjoki
        ("FI", 62.67, 31.58),  // Ilomantsi, the easternmost
        ("FR", 48.86, 2.35),   // Paris
        ("FR", 48.39, -4.49),  // Brest
        ("FR", 48.46, -5.10),  // Ushant
        ("FR", 41.39, 9.16),   // Bonifacio
        ("FR", 51.03, 2.38),   // Dunkirk
        ("GF", 4.94, -52.33),  // Cayenne
        ("GP", 16.00, -61.73), // Basse-Terre
        ("GR", 37.98, 23.73),  // Athens
        ("GR", 34.84, 24.08),  // Gavdos
        ("GR", 36.15, 29.59),  // Kastellorizo
        ("GR", 39.62, 19.92),  // Corfu
        ("HR", 45.81, 15.98),  // Zagreb
        ("HR", 42.65, 18.09),  // Dubrovnik
        ("HR", 42.39, 16.26),  // Palagruža
        ("HU", 47.50, 19.04),  // Budapest
        ("IE", 53.35, -6.26),  // Dublin
        ("IE", 52.14, -10.27), // Dingle
        ("IE", 55.25, -7.26),  // Malin
        ("IS", 64.15, -21.94), // Reykjavík
        ("IT", 41.90, 12.50),  // Rome
        ("IT", 35.50, 12.61),  // Lampedusa
        ("IT", 40.90, 12.96),  // Ponza
        ("IT", 40.15, 18.49),  // Otranto
        ("LI", 47.14, 9.52),   // Vaduz
        ("LT", 54.69, 25.28),  // Vilnius
        ("LU", 49.61, 6.13),   // Luxembourg
        ("LV", 56.95, 24.11),  // Riga
        ("MF", 18.07, -63.08), // Marigot
        ("MQ", 14.61, -61.07), // Fort-de-France
        ("MT", 35.90, 14.51),  // Valletta
        ("NL", 52.37, 4.90),   // Amsterdam
        ("NL", 53.49, 6.16),   // Schiermonnikoog
        ("NO", 59.91, 10.75),  // Oslo
        ("NO", 70.37, 31.11),  // Vardø
        ("PL", 52.23, 21.01),  // Warsaw
        ("PT", 38.72, -9.14),  // Lisbon
        ("PT", 39.70, -31.11), // Corvo
        ("PT", 32.65, -16.91), // Funchal
        ("RE", -20.88, 55.45), // Saint-Denis
        ("RO", 44.43, 26.10),  // Bucharest
        ("SE", 59.33, 18.07),  // Stockholm
        ("SI", 46.06, 14.51),  // Ljubljana
        ("SK", 48.15, 17.11),  // Bratislava
        ("YT", -12.78, 45.23), // Mamoudzou
    ];

    #[test]
    fn every_country_of_the_union_holds_its_capital_and_its_ends() {
        for &(country, latitude, longitude) in INSIDE {
            let found = may_be(latitude, longitude);
            assert!(found.contains(&country), "{country} at {latitude}, {longitude}: {found:?}");
        }
        for (country, _) in UNION {
            assert!(INSIDE.iter().any(|(code, ..)| *code == country), "{country} has no place in this test");
        }
    }

    #[test]
    fn places_far_from_the_union_are_outside() {
        for (place, latitude, longitude) in [
            ("New York", 40.71, -74.01),
            ("London", 51.51, -0.13),
            ("Edinburgh", 55.95, -3.19),
            ("Reading", 51.45, -0.97),
            ("Casablanca", 33.57, -7.59),
            ("Tunis", 36.81, 10.18),
            ("Ankara", 39.93, 32.86),
            ("Kyiv", 50.45, 30.52),
            ("Minsk", 53.90, 27.56),
            ("Moscow", 55.76, 37.62),
            ("Saint Petersburg", 59.94, 30.31),
            ("Nuuk", 64.18, -51.69),
            ("Longyearbyen", 78.22, 15.64),
            ("Paramaribo", 5.85, -55.20),
            ("Willemstad", 12.11, -68.93),
            ("the middle of nowhere", 0.0, 0.0),
            ("the pole and the date line", 90.0, 180.0),
            ("their opposites", -90.0, -180.0),
        ] {
            assert_eq!(may_be(latitude, longitude), [""; 0], "{place}");
        }
    }

    /// The price of the boxes, stated so that it changes knowingly.
    #[test]
    fn neighbours_near_a_border_are_taken_for_the_union() {
        for (place, latitude, longitude) in
            [("Zurich", 47.37, 8.54), ("Geneva", 46.20, 6.14), ("Canterbury", 51.28, 1.08), ("Istanbul", 41.01, 28.98)]
        {
            assert_ne!(may_be(latitude, longitude), [""; 0], "{place}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_its_boxes_are_not_empty() {
        assert!(UNION.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let boxes = UNION.iter().flat_map(|(_, boxes)| *boxes);
        assert!(boxes.clone().all(|&(south, north, west, east)| south < north && west < east));
        assert!(is_in_union("DE") && is_in_union("YT") && !is_in_union("CH") && !is_in_union("de"));
    }
}
