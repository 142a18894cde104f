//! Runs the decoder process: a hidden subcommand that confines itself, decodes a file from standard
//! input, and writes the result to standard output. A crash affects this one file only.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::picture::{self, Orientation};
use super::{ppm, strip_metadata, tiff, waveform};
use crate::sandbox::{self, ChildSpec, Run, confine};

/// Exit status if the decoder rejects the input.
const EXIT_REFUSED: u8 = 1;
/// Exit status if the input is a TIFF image that only `ffmpeg` decodes. The output is then the
/// image's orientation, one byte (TIFF 6.0 tag 274).
pub(super) const EXIT_UNSUPPORTED: u8 = 3;

/// Name of the decoder that converts TIFF to JPEG.
pub const TIFF: &str = "tiff";
/// Name of the decoder that converts PPM to JPEG. Its argument is the orientation.
pub const PPM: &str = "ppm";
/// Name of the decoder that analyses audio. Its output is JSON.
pub const WAVEFORM: &str = "waveform";
/// Name of the decoder that copies a file without private metadata. Its output is empty if there is
/// none to remove.
pub const STRIP_METADATA: &str = "strip-metadata";

/// Confines this process as `argument` specifies, and then runs a decoder, another program or the
/// sandbox probe.
#[must_use]
pub fn main(argument: &OsStr) -> ExitCode {
    let spec = match ChildSpec::decode(argument) {
        Ok(spec) => spec,
        Err(problem) => {
            return fail(
                sandbox::EXIT_IO,
                &format!("this command is internal: {problem}"),
            );
        }
    };
    if let Err(error) = confine::confine(&spec) {
        return fail(
            sandbox::EXIT_IO,
            &format!("cannot confine the process: {error}"),
        );
    }
    match spec.run {
        Run::Program(program, arguments) => {
            let error = Command::new(&program).args(arguments).exec();
            fail(
                sandbox::EXIT_IO,
                &format!("cannot run {}: {error}", program.display()),
            )
        }
        Run::Decoder(name, argument) => match decode_standard_input(&name, argument.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Refused(message)) => fail(EXIT_REFUSED, &message),
            Err(Failure::Unsupported) => ExitCode::from(EXIT_UNSUPPORTED),
            Err(Failure::Io(error)) => fail(sandbox::EXIT_IO, &error.to_string()),
        },
        Run::Probe => match report() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(sandbox::EXIT_IO, &error.to_string()),
        },
    }
}

fn fail(status: u8, message: &str) -> ExitCode {
    // The write may fail, because the server may have closed the pipe.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(status)
}

/// Reasons why a decoder gave no output.
#[derive(Debug)]
pub enum Failure {
    /// The decoder rejected the input; the field is the reason.
    Refused(String),
    /// The input is a TIFF image that only `ffmpeg` decodes.
    Unsupported,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Refused(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

impl From<picture::Error> for Failure {
    fn from(error: picture::Error) -> Self {
        match error {
            picture::Error::Unsupported(_) => Self::Unsupported,
            picture::Error::Refused(message) => Self::Refused(message),
            picture::Error::Output(error) => Self::Io(error),
        }
    }
}

fn decode_standard_input(name: &str, argument: Option<&str>) -> Result<(), Failure> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    decode(name, argument, input, output)
}

/// Runs the decoder called `name`. Sets no limits, because the sandbox sets them.
///
/// # Errors
/// The decoder gave no output.
pub fn decode(
    name: &str,
    argument: Option<&str>,
    mut input: File,
    mut output: File,
) -> Result<(), Failure> {
    input.rewind()?;
    match name {
        TIFF => {
            let decoded =
                tiff::to_jpeg(&mut input, BufWriter::new(&mut output)).map_err(Failure::from);
            if matches!(decoded, Err(Failure::Unsupported)) {
                output.set_len(0)?;
                output.rewind()?;
                output.write_all(&[tiff::orientation(&mut input).tag()])?;
            }
            decoded
        }
        PPM => {
            let orientation = argument
                .and_then(|argument| argument.parse().ok())
                .and_then(Orientation::from_tag)
                .unwrap_or(Orientation::UPRIGHT);
            Ok(ppm::to_jpeg(
                input,
                orientation,
                BufWriter::new(&mut output),
            )?)
        }
        WAVEFORM => {
            let analysis = waveform::analyze_audio(Box::new(input));
            Ok(serde_json::to_writer(output, &analysis).map_err(io::Error::from)?)
        }
        STRIP_METADATA => Ok(strip_metadata::strip(&mut input, &mut output)?),
        other => Err(Failure::Refused(format!("unknown decoder {other:?}"))),
    }
}

fn report() -> io::Result<()> {
    Ok(serde_json::to_writer(io::stdout(), &confine::probe())?)
}
