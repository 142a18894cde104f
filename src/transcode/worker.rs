//! The decoder process: the hidden subcommand that reads a file from standard input, decodes it confined, and writes the
//! result to standard output. Owns nothing; whatever happens here costs one file at most.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use image::metadata::Orientation;

use super::{strip_metadata, tiff, waveform};
use crate::sandbox::{self, Order, Run, confine};

/// Exit status for an input that the decoder refuses.
const EXIT_REFUSED: u8 = 1;
/// Exit status for a TIFF of a kind that is not decoded here; its orientation (TIFF 6.0 tag 274) is the output.
pub(super) const EXIT_UNSUPPORTED: u8 = 3;

/// TIFF to JPEG.
pub const TIFF: &str = "tiff";
/// PNM to JPEG, upright by the orientation given as argument.
pub const PNM: &str = "pnm";
/// The waveform of a sound, as JSON.
pub const WAVEFORM: &str = "waveform";
/// The file without private metadata; no output if it has none.
pub const STRIP_METADATA: &str = "strip-metadata";

/// Runs the order in `argument`; the exit status tells how that went.
#[must_use]
pub fn main(argument: &OsStr) -> ExitCode {
    let order = match Order::decode(argument) {
        Ok(order) => order,
        Err(problem) => {
            return fail(
                sandbox::EXIT_IO,
                &format!("this command is internal: {problem}"),
            );
        }
    };
    if let Err(error) = confine::confine(&order) {
        return fail(sandbox::EXIT_IO, &format!("cannot be confined: {error}"));
    }
    match order.run {
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
    // Whoever would read it may be gone.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(status)
}

/// Why there is no output.
#[derive(Debug)]
pub enum Failure {
    /// The decoder refuses the input, and why.
    Refused(String),
    /// A TIFF of a kind that is not decoded here.
    Unsupported,
    /// Input or output failed.
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

impl From<image::ImageError> for Failure {
    fn from(error: image::ImageError) -> Self {
        match error {
            image::ImageError::Unsupported(_) => Self::Unsupported,
            error => Self::Refused(error.to_string()),
        }
    }
}

fn decode_standard_input(name: &str, argument: Option<&str>) -> Result<(), Failure> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    decode(name, argument, input, output)
}

/// Runs the decoder `name`. Bounds nothing: that is the sandbox's part.
///
/// # Errors
/// There is no output.
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
                output.write_all(&[tiff::orientation(&mut input).to_exif()])?;
            }
            decoded
        }
        PNM => {
            let orientation = argument
                .and_then(|argument| argument.parse().ok())
                .and_then(Orientation::from_exif);
            let orientation = orientation.unwrap_or(Orientation::NoTransforms);
            Ok(tiff::decoded_to_jpeg(
                input,
                orientation,
                BufWriter::new(&mut output),
            )?)
        }
        WAVEFORM => {
            let sound = waveform::analyze_audio(Box::new(input));
            Ok(serde_json::to_writer(output, &sound).map_err(io::Error::from)?)
        }
        STRIP_METADATA => Ok(strip_metadata::strip(&mut input, &mut output)?),
        other => Err(Failure::Refused(format!("there is no decoder {other:?}"))),
    }
}

fn report() -> io::Result<()> {
    Ok(serde_json::to_writer(io::stdout(), &confine::probe())?)
}
