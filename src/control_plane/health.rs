//! Asks the data plane how it fares, at regular times: for the service manager's watchdog and status line, and for
//! the number of clients.
//!
//! Rule: the watchdog is fed after an answer and never otherwise, so a data plane that hangs is restarted.

use std::rc::Rc;
use std::time::Duration;

use replicator::state::Role;
use replicator::status_report::StatusReport;

use super::limit::ClientCount;
use super::plane_link::PlaneLink;
use super::systemd::{ServiceManager, watchdog_interval};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells the service manager that the daemon is ready after the first answer, and then goes on asking, for ever.
/// May be dropped.
pub async fn watch(plane: PlaneLink, clients: Rc<ClientCount>, manager: Rc<ServiceManager>) {
    let interval = watchdog_interval().map_or(INTERVAL, |limit| limit.min(INTERVAL));
    let (mut is_ready, mut is_late) = (false, false);
    loop {
        clients.on_asked();
        match plane.status().await {
            Ok(report) => {
                clients.on_answered(report.devices.iter().map(|device| device.clients).sum());
                manager.status(&status_line(&report));
                if !is_ready {
                    tracing::info!(role = %report.role, "ready");
                    manager.ready();
                }
                if is_late {
                    tracing::info!("the data plane answers again");
                }
                (is_ready, is_late) = (true, false);
                manager.feed_watchdog();
            }
            Err(error) => {
                if !is_late {
                    tracing::warn!(%error, "no snapshot");
                }
                is_late = true;
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// One line for people, for example `Primary, UpToDate, 3 clients; beta Connected UpToDate`.
fn status_line(report: &StatusReport) -> String {
    let mut line = report.role.to_string();
    for device in &report.devices {
        line += &format!(", {}", device.disk_state);
        if report.role == Role::Primary {
            line += &format!(", {} clients", device.clients);
        }
    }
    if let Some(frozen) = &report.frozen {
        line += &format!(", frozen: {}", frozen.reason);
    }
    for connection in &report.connections {
        line += &format!("; {} {}", connection.name, connection.connection_state);
        for device in &connection.peer_devices {
            line += &format!(" {}", device.peer_disk_state);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use replicator::status_report::FrozenReport;

    use super::*;
    use crate::control_plane::fake_plane;

    #[test]
    fn the_status_line_says_what_an_operator_asks_first() {
        let mut report = fake_plane::report();
        assert_eq!(status_line(&report), "Secondary");
        report.role = Role::Primary;
        let reason = "no majority".to_owned();
        report.frozen = Some(FrozenReport { reason, since_ms: 0, ends_by: String::new() });
        assert_eq!(status_line(&report), "Primary, frozen: no majority");
    }
}
