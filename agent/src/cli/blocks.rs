//! `tidegate blocks`: enforcements in force.

use crate::{
    api::{
        BlockOrder, Client,
        view::{BlockView, Blocks},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, printable, remaining, table},
    },
    config::period::Period,
    enforce::Target,
};

/// List, add and delete enforcements.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List every enforcement: blocks, rate limits and isolations.
    List,
    /// Block an address or prefix in both directions, or limit its rate.
    ///
    /// Addresses the gateway needs and those on the never-block list are refused; `tidegate allow check` says which they are.
    #[command(after_help = "\
Examples:
  tidegate blocks add 203.0.113.9 --ttl 1h --reason \"scans us\"
  tidegate blocks add 2001:db8:bad::/48 --ttl 7d
  tidegate blocks add 203.0.113.9 --rate 20        leave 20 packets a second")]
    Add {
        /// Address or prefix.
        #[arg(value_name = "IP|CIDR")]
        target: Target,
        /// How long, such as 30m or 2h; by default `enforcement.base_ttl`.
        #[arg(long, value_name = "TIME")]
        ttl: Option<Period>,
        /// Let so many packets a second pass.
        #[arg(long = "rate", value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate_pps: Option<u32>,
        /// Why, for the audit.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// End one enforcement.
    Delete {
        /// Address, prefix or hardware address, as listed.
        #[arg(value_name = "TARGET")]
        target: Target,
    },
    /// End every enforcement, isolations included.
    Flush,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List => output.show(Blocks { blocks: client.blocks().await? }, |list| listing(&list.blocks)),
        Command::Add { target, ttl, rate_pps, reason } => {
            if matches!(target, Target::Device(_)) {
                return Err(CliError::usage(format!("{target} is a device"))
                    .hint(format!("isolate it: tidegate devices isolate {target} --level full")));
            }
            let block = client.block(&BlockOrder { target, ttl, rate_pps, reason }).await?;
            output.show(block, |block| {
                let until = block.expires.map_or("for ever".to_owned(), |time| format!("until {time:.0}"));
                match block.rate_pps {
                    Some(rate) => format!("{} is limited to {rate} packets a second {until}", block.target),
                    None => format!("{} is blocked {until}", block.target),
                }
            })
        }
        Command::Delete { target } => {
            output.show(client.unblock(&target).await?, |block| format!("{} is free", block.target))
        }
        Command::Flush => output.show(Blocks { blocks: client.flush().await? }, |list| {
            format!("{} enforcements ended", list.blocks.len())
        }),
    }
}

fn listing(blocks: &[BlockView]) -> String {
    let rows = blocks.iter().map(|block| {
        let action = match (block.level, block.rate_pps) {
            (Some(level), _) => format!("{} {level}", block.action.as_str()),
            (None, Some(rate)) => format!("{} {rate}/s", block.action.as_str()),
            (None, None) => block.action.as_str().to_owned(),
        };
        [
            block.target.to_string(),
            action,
            block.reason.as_str().to_owned(),
            remaining(block.ttl_s),
            block.hits.to_string(),
            printable(&block.author),
            printable(&block.detail),
        ]
    });
    table(["TARGET", "ACTION", "REASON", "LEFT", "HITS", "BY", "WHY"], rows, "nothing is blocked")
}
