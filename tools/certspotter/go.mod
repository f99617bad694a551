module kiln/tools/certspotter

go 1.26.0

tool software.sslmate.com/src/certspotter/cmd/certspotter

require (
	golang.org/x/crypto v0.52.0 // indirect
	golang.org/x/net v0.55.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
	golang.org/x/text v0.37.0 // indirect
	golang.org/x/time v0.15.0 // indirect
	software.sslmate.com/src/certspotter v0.24.2 // indirect
)
