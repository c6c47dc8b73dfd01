// SPDX-License-Identifier: GPL-2.0-only
//! What the package archive says, read as text: where the mirror is, which kernel to take.
//!
//! Pure functions over the files and outputs of apt; nothing here touches the system. Rules: the
//! mirror is the one this machine already uses; a kernel counts only if image, headers and source
//! have the same version.

use std::cmp::Ordering;

use anyhow::Result;
use anyhow::bail;

/// The suite of the toolchain root and the nodes.
pub(crate) const SUITE: &str = "trixie";

/// The series of kernels on which all tests have passed. Rust's interface inside the kernel changes
/// from one to the next without notice, so a newer one is tried before it is named here. Of 7.3 the
/// stock kernel passes; User Mode Linux warns about its own IPv6 at some boots
/// (`__local_bh_enable_ip` in `ip6_dst_destroy`, 7.3.4), which fails the scenario it happens in.
const SERIES: &[[u32; 2]] = &[[7, 2]];

/// One archive of a sources file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it is.
    pub uri: String,
    /// Its suites.
    pub suites: Vec<String>,
}

/// The archives we need, by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// Releases, updates and backports.
    pub main: String,
    /// Security updates.
    pub security: Option<String>,
}

impl Mirrors {
    /// Lines of a sources.list for [`SUITE`], signed by `keyring`.
    pub(crate) fn lines(&self, keyring: &str) -> String {
        let main = &self.main;
        let mut text = String::new();
        for suite in [
            SUITE.to_owned(),
            format!("{SUITE}-updates"),
            format!("{SUITE}-backports"),
        ] {
            text.push_str(&format!("deb [signed-by={keyring}] {main} {suite} main\n"));
        }
        if let Some(security) = &self.security {
            text.push_str(&format!(
                "deb [signed-by={keyring}] {security} {SUITE}-security main\n"
            ));
        }
        text
    }
}

/// Archives of a file, in either of the two formats of sources.list(5).
pub(crate) fn parse_sources(text: &str) -> Vec<Source> {
    if text.lines().any(|line| line.starts_with("URIs:")) {
        text.split("\n\n")
            .filter_map(parse_stanza)
            .flatten()
            .collect()
    } else {
        text.lines().filter_map(parse_line).collect()
    }
}

fn parse_stanza(stanza: &str) -> Option<Vec<Source>> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| {
                rest.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<String>>()
            })
    };
    let enabled = !field("Enabled:").is_some_and(|words| words.iter().any(|word| word == "no"));
    let binary = field("Types:").is_some_and(|words| words.iter().any(|word| word == "deb"));
    if !enabled || !binary {
        return None;
    }
    let suites = field("Suites:")?;
    let uris = field("URIs:")?;
    Some(
        uris.into_iter()
            .map(|uri| Source {
                uri,
                suites: suites.clone(),
            })
            .collect(),
    )
}

fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    Some(Source {
        uri,
        suites: vec![words.next()?.to_owned()],
    })
}

/// The Debian mirrors among `sources`; `codename` is the suite this machine runs.
pub(crate) fn choose_mirrors(sources: &[Source], codename: &str) -> Result<Mirrors> {
    let with = |suite: String| {
        sources
            .iter()
            .find(|source| source.suites.contains(&suite))
            .map(|found| found.uri.clone())
    };
    let Some(main) = with(codename.to_owned()) else {
        bail!(
            "no apt source of this machine offers {codename}; add a Debian mirror to \
             /etc/apt/sources.list, or name one in the environment: CONCLAVE_MIRROR=<address>"
        );
    };
    Ok(Mirrors {
        main,
        security: with(format!("{codename}-security")),
    })
}

/// `VERSION_CODENAME` of an os-release file.
pub(crate) fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"'))
}

/// A kernel all of whose parts the archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What `uname -r` says, for example `7.2.12+deb13-amd64`.
    pub release: String,
    /// The Debian version of all three packages.
    pub version: String,
    /// The package of the source, for example `linux-source-7.2`.
    pub source: String,
}

impl Kernel {
    /// The part of the release that is not in the kernel's Makefile, for `LOCALVERSION=`.
    pub(crate) fn local_version(&self) -> &str {
        let end = self.release.find(|c: char| c != '.' && !c.is_ascii_digit());
        end.map_or("", |end| &self.release[end..])
    }

    /// Arguments for `apt-get download`.
    pub(crate) fn packages(&self) -> [String; 3] {
        let Kernel {
            release,
            version,
            source,
        } = self;
        [
            format!("linux-image-{release}={version}"),
            format!("linux-headers-{release}={version}"),
            format!("{source}={version}"),
        ]
    }
}

/// The newest kernel of our series in the output of `apt-cache madison`.
pub(crate) fn newest_kernel(madison: &str) -> Result<Kernel> {
    let offers: Vec<(&str, &str)> = madison.lines().filter_map(parse_offer).collect();
    let has = |name: &str, version: &str| offers.contains(&(name, version));
    offers
        .iter()
        .filter_map(|(name, version)| {
            let release = name.strip_prefix("linux-image-")?;
            let numbers = release_numbers(release)?;
            let source = format!("linux-source-{}.{}", numbers[0], numbers[1]);
            let whole = has(&format!("linux-headers-{release}"), version)
                && has(&source, version)
                && release.ends_with("-amd64")
                && !["-rt-", "-cloud-"]
                    .iter()
                    .any(|variant| release.contains(variant))
                && SERIES.contains(&[numbers[0], numbers[1]]);
            let (release, version) = (release.to_owned(), (*version).to_owned());
            whole.then_some(Kernel {
                release,
                version,
                source,
            })
        })
        .max_by(|a, b| compare_versions(&a.version, &b.version))
        .map_or_else(|| bail!("{}", no_kernel(&offers)), Ok)
}

fn no_kernel(offers: &[(&str, &str)]) -> String {
    let series: Vec<String> = SERIES.iter().map(|[a, b]| format!("{a}.{b}")).collect();
    let series = series.join(" or ");
    format!(
        "the archive has no {series} kernel whose image, headers and source agree \
         ({} kernel packages seen); is {SUITE}-backports on your mirror? \
         Try again later with: cargo xtask setup --refresh",
        offers.len()
    )
}

fn parse_offer(line: &str) -> Option<(&str, &str)> {
    let mut columns = line.split('|').map(str::trim);
    Some((columns.next()?, columns.next()?))
}

/// `[7, 2, 12]` of `7.2.12+deb13-amd64`.
fn release_numbers(release: &str) -> Option<[u32; 3]> {
    let end = release.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let mut numbers = release[..end].split('.').map(str::parse);
    let found = [
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    ];
    numbers.next().is_none().then_some(found)
}

/// Order of Debian versions, as in deb-version(7); both without epoch.
fn compare_versions(left: &str, right: &str) -> Ordering {
    let split = |version: &str| {
        version
            .rsplit_once('-')
            .map_or((version.to_owned(), String::new()), |(upstream, rev)| {
                (upstream.to_owned(), rev.to_owned())
            })
    };
    let ((left_upstream, left_rev), (right_upstream, right_rev)) = (split(left), split(right));
    compare_parts(&left_upstream, &right_upstream)
        .then_with(|| compare_parts(&left_rev, &right_rev))
}

fn compare_parts(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_while(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split_while(right, |c| !c.is_ascii_digit());
        let order = compare_text(left_text, right_text);
        if order != Ordering::Equal {
            return order;
        }
        let (left_number, left_after) = split_while(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_after) = split_while(right_rest, |c| c.is_ascii_digit());
        let order = number(left_number).cmp(&number(right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_after, right_after);
    }
    Ordering::Equal
}

/// `~` sorts before the end, the end before letters, letters before the rest.
fn compare_text(left: &str, right: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 256,
    };
    let longest = left.chars().count().max(right.chars().count());
    (0..longest)
        .map(|at| weight(left.chars().nth(at)).cmp(&weight(right.chars().nth(at))))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or(Ordering::Equal)
}

fn split_while(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !wanted(c)).unwrap_or(text.len()))
}

fn number(digits: &str) -> u128 {
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a comment\nURIs: http://m.example/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main\n\n\
        Types: deb\nURIs: http://m.example/security\nSuites: bookworm-security\n\n\
        Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\n\n\
        Types: deb-src\nURIs: http://src.example/debian\nSuites: bookworm\n";

    #[test]
    fn both_formats_of_sources_are_read() {
        let found = choose_mirrors(&parse_sources(DEB822), "bookworm").unwrap();
        assert_eq!(found.main, "http://m.example/debian");
        assert_eq!(found.security.as_deref(), Some("http://m.example/security"));

        let lines = "# deb http://no.example/ bookworm main\n\
            deb-src http://src.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib\n";
        let found = choose_mirrors(&parse_sources(lines), "bookworm").unwrap();
        assert_eq!(
            found,
            Mirrors {
                main: "http://one.example/debian".into(),
                security: None
            }
        );
    }

    #[test]
    fn only_disabled_sources_are_an_error_with_a_remedy() {
        let off = "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\n";
        let error = choose_mirrors(&parse_sources(off), "bookworm")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("bookworm") && error.contains("CONCLAVE_MIRROR"),
            "{error}"
        );
    }

    #[test]
    fn sources_list_names_suites_and_keyring() {
        let mirrors = Mirrors {
            main: "M".into(),
            security: Some("S".into()),
        };
        let text = mirrors.lines("/k.gpg");
        assert!(
            text.contains("deb [signed-by=/k.gpg] M trixie-backports main\n"),
            "{text}"
        );
        assert!(text.contains("S trixie-security main\n"), "{text}");
    }

    fn offer(release: &str, version: &str, parts: &[&str]) -> String {
        let series: Vec<&str> = release.split('.').collect();
        parts
            .iter()
            .map(|part| match *part {
                "source" => format!("linux-source-{}.{}", series[0], series[1]),
                part => format!("linux-{part}-{release}"),
            })
            .map(|name| format!(" {name} | {version} | http://m.example trixie/main\n"))
            .collect()
    }

    const ALL: [&str; 3] = ["image", "headers", "source"];

    #[test]
    fn newest_complete_kernel_wins() {
        let madison = [
            offer("6.12.90+deb13-amd64", "6.12.90-1", &ALL),
            offer("7.2.9+deb13-amd64", "7.2.9-1~bpo13+1", &ALL),
            offer("7.2.12+deb13-amd64", "7.2.12-1~bpo13+1", &ALL),
            offer(
                "7.2.13+deb13-amd64",
                "7.2.13-1~bpo13+1",
                &["image", "headers"],
            ),
            offer("7.2.14+deb13-cloud-amd64", "7.2.14-1~bpo13+1", &ALL),
            offer("7.99.4+deb13-amd64", "7.99.4-1~bpo13+1", &ALL),
            offer("8.0.1+deb13-amd64", "8.0.1-1~bpo13+1", &ALL),
        ]
        .concat();
        let kernel = newest_kernel(&madison).unwrap();
        assert_eq!(kernel.release, "7.2.12+deb13-amd64");
        assert_eq!(kernel.version, "7.2.12-1~bpo13+1");
        assert_eq!(kernel.source, "linux-source-7.2");
        assert_eq!(kernel.local_version(), "+deb13-amd64");
        assert_eq!(kernel.packages()[2], "linux-source-7.2=7.2.12-1~bpo13+1");
    }

    #[test]
    fn source_of_another_revision_does_not_count() {
        let madison = [
            offer(
                "7.2.12+deb13-amd64",
                "7.2.12-2~bpo13+1",
                &["image", "headers"],
            ),
            offer("7.2.12+deb13-amd64", "7.2.12-1~bpo13+1", &["source"]),
        ]
        .concat();
        let error = newest_kernel(&madison).unwrap_err().to_string();
        assert!(
            error.contains("--refresh") && error.contains("3 kernel packages"),
            "{error}"
        );
    }

    #[test]
    fn versions_sort_as_debian_sorts_them() {
        let sorted = [
            "7.2~rc1-1",
            "7.2.9-1",
            "7.2.12-1~bpo13+1",
            "7.2.12-1",
            "7.2.12-1+b1",
            "7.10.1-1",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(
                compare_versions(pair[0], pair[1]),
                Ordering::Less,
                "{pair:?}"
            );
            assert_eq!(
                compare_versions(pair[1], pair[0]),
                Ordering::Greater,
                "{pair:?}"
            );
        }
        assert_eq!(compare_versions("7.2.12-1", "7.2.12-1"), Ordering::Equal);
    }

    #[test]
    fn codename_is_read_with_and_without_quotes() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Some("bookworm")
        );
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
        assert_eq!(codename("ID=debian\n"), None);
    }
}
