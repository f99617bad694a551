package kiln

import (
	"go/ast"
	"go/parser"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// parserName is what functions are called that make something of bytes or text
// from elsewhere. A function of such a name has a line in parsers.
var parserName = regexp.MustCompile(`^(?i:parse|decode|unmarshal|gunzip|read|load|split)([A-Z0-9]|$)`)

// parsers is policy: what reads bytes or text from outside of the process, or
// from storage, and the fuzz target of its package that does so with any. Each
// line of a package is
//
//	function Fuzz target          the target reaches the function, by names
//	function why there is none    in words
//
// A function that is not called like a parser may have a line too. A new parser
// without a target fails the test, and so does a target that nothing here needs.
var parsers = map[string]string{
	"checkpoint": `
		Open FuzzSigned FuzzOpen
		NewVerifier FuzzNewVerifier
	`,
	"cmd/kiln": `
		parseFlags FuzzCommandLine
		find FuzzCommandLine
		flagError FuzzCommandLine
		load reads with config.Load
		readPublicKey reads with fsck.ParsePublicKey
		parseTime FuzzWindow
		prefixFor FuzzWindow
		windowFor FuzzWindow
		Set FuzzKeepTime
	`,
	"dedup": `
		parseCovered FuzzCovered
		holds FuzzRow
		load FuzzFile
		read FuzzFile
		readRow FuzzFile
		readSchema FuzzFile
	`,
	"entry": `
		ParseExtensions FuzzParseExtensions
		SCTInputKey FuzzSCTInputKey
		AppendTileLeaf FuzzTileLeaf
	`,
	"frontend": `
		parseBody FuzzAddChainBody
		decodeCertificate FuzzAddChainBody
		UnmarshalJSON is called by encoding/json for parseBody, and keeps nothing
		readBody FuzzRequest
		readChain FuzzRequest
		readOnly reads a clock
		endpointOf FuzzRequest
		clientOf FuzzClient
		takesGzip FuzzNegotiation
		matchesETag FuzzNegotiation
	`,
	"internal/cell": `
		Decode FuzzDecode
		parse FuzzHeld
		Load reads with Decode
		read reads with Decode
		readOnce reads with Decode
	`,
	"internal/chain": `
		parseCertificate FuzzParse
		parseTBS FuzzParse
		parseExtensions FuzzParse
		readExtension FuzzParse
		readTime FuzzParse
		readHash FuzzAlgorithm
		signatureAlgorithm FuzzAlgorithm
		verifySignature FuzzSignature
		publicKey FuzzSignature
		splice FuzzSplice
		Prepare FuzzPrepare
		ReadLogged FuzzContradiction
		Contradiction FuzzContradiction
		ParseRoots FuzzParseRoots
		ParseRoot FuzzParseRoots
	`,
	"internal/config": `
		Parse FuzzLoad
		parse FuzzLoad
		parseNode FuzzLoad
		read FuzzLoad
		Load reads a file and calls parse
		Read reads a file and calls parse
		readFile reads a bounded file and looks at nothing in it
		readPEM FuzzFiles
		loadPassword FuzzFiles
		LoadPassword calls loadPassword
		parseCredentials FuzzCredentials
		loadCredentials reads a file and calls parseCredentials
		LoadCredentials calls loadCredentials
		checkKey FuzzFiles
		checkSecret FuzzFiles
		checkRoots FuzzFiles
		checkCA FuzzFiles
		ParseHalfYear FuzzHalfYear
		parseACMEHost FuzzValues
		parseAddr FuzzValues
		parseBool FuzzLoad
		parseDirectoryURL FuzzValues
		parseEmail FuzzValues
		parseEndpoint FuzzValues
		parseEtcdEndpoint FuzzValues
		parseFile FuzzValues
		parseFormat FuzzValues
		parseHalf FuzzValues
		parseLevel FuzzValues
		parseName FuzzValues
		parsePeriod FuzzValues
		parsePrefix FuzzValues
		parseRefresh FuzzValues
		parseRegion FuzzValues
		parseS3 FuzzValues
		parseSeriesName FuzzValues
		parseTime FuzzValues
		parseUse FuzzValues
		parseUsername FuzzValues
		splitS3 FuzzValues
		shorten FuzzShorten
		withoutUser FuzzShorten
	`,
	"internal/daemon": `
		newRoute FuzzNewRoute
		find FuzzRoute
		clientKey FuzzClientKey
		load FuzzTLSFiles
		readLocked FuzzTLSFiles
		holder FuzzHolder
		LoadKey reads with logkey.Load
		Read counts the bytes of a connection
		ReadOnlyAfter reads a clock
		readOnlyTime reads a clock
		readBucket opens a bucket
		readCheckpoint is opened by checkpoint.Open
	`,
	"internal/fsck": `
		read FuzzLeaf
		readPiece reads with leaf.read and readLine
		readPrefixes reads with leaf.read and readLine
		readLine FuzzNames
		checkLine FuzzNames
		decode FuzzDecode
		Read counts the bytes of a transfer, or keeps its error
		ReadTiles hands over hash tiles of the right length, which tlog proves
		loadIssuer reads with chain.ReadLogged
		readCheckpoint is opened by checkpoint.Open
		readEdge hands over hash tiles of the right length
		parseMetadata FuzzMetadata
		ParsePublicKey FuzzPublicKey
		parseState FuzzState
		readState reads a file and calls parseState
		answer FuzzServer
		judgeHeaders FuzzHeaders
		RetryAfter FuzzWaits
		maxAge FuzzWaits
		placeOf FuzzWaits
		OpenURL FuzzOpenURL
	`,
	"internal/gc": `
		bundleOf FuzzListed
		partialOf FuzzListed
		readLock is opened by checkpoint.Open
		readPublic is opened by checkpoint.Open
	`,
	"internal/keycheck": `
		read FuzzFile
		readFile FuzzFile
		privateSPKI FuzzFile
		certificateSPKIs FuzzFile
	`,
	"internal/lifecycle": `
		parseMark FuzzMark
		loadMark FuzzMark
		loadCell FuzzMark
		Load reads with loadMark
	`,
	"internal/logkey": `
		Parse FuzzParse
		onlyBlock FuzzParse
		ParseSecret FuzzParseSecret
		Verify FuzzVerify
		Load reads a file and calls Parse
		LoadSecret reads a file and calls ParseSecret
	`,
	"internal/restore": `
		readMark FuzzMark
		splitKey FuzzFaultKey
		ofOtherLog FuzzFaultKey
		readLock is opened by checkpoint.Open
		readPublished is opened by checkpoint.Open
	`,
	"internal/roots": `
		ParseFile FuzzParseFile
		parsePEM FuzzParseFile
		provenance FuzzParseFile
		parseRefused FuzzRefused
		ParseFingerprint FuzzFingerprint
		ParseReport FuzzParseReport
		parseRow FuzzParseReport
		nameOf FuzzNames
		decode FuzzNames
		Recover FuzzCopies
		CheckSource FuzzSource
		reportName FuzzSource
		Load reads with ParseFile
		load reads with ParseFile
		read reads bounded bytes and looks at nothing in them
		readAll reads bounded bytes and looks at nothing in them
		readFile reads bounded bytes and looks at nothing in them
		Read counts the bytes of a transfer
	`,
	"internal/s3client": `
		readBody FuzzGet
		readUpTo FuzzGet
		checkSum FuzzGet
		sumOfETag FuzzGet
		ListPage FuzzList
		classify FuzzAnswer
	`,
	"internal/servers": `
		Write FuzzTail
		errorAnswer FuzzProxyError
	`,
	"internal/shards": `
		kindOf FuzzKindOf
		LoadFinal is opened by checkpoint.Open
		loadKey reads with logkey.Load
	`,
	"internal/sim/auditor": `
		parseTile FuzzTile
		decode FuzzGunzip
		parseEntry FuzzEntry
		parseCert FuzzCert
		parseExtensions FuzzCert
		split FuzzCert
		open FuzzNote
		readAgain reads with parseEntry
	`,
	"lock/etcd": `
		check FuzzEndpoints
		Read reads with cell.Decode
	`,
	"lock/mem": `
		Load returns what was put
	`,
	"lock/s3": `
		key FuzzKey
		Read reads with cell.Decode
		read reads with cell.Decode
		readOnce reads with cell.Decode
	`,
	"lock/sqlite": `
		parseVersion FuzzParseVersion
		Load FuzzFile
		Open FuzzFile
	`,
	"reader": `
		route FuzzPath
		load FuzzHeaders
		takesGzip FuzzHeaders
		conditional FuzzHeaders
		clientOf FuzzClient
		readCheckpoint FuzzStoredCheckpoint
	`,
	"sequencer": `
		load FuzzHostileLoad
		loadOnce FuzzHostileLoad
		readLock FuzzHostileLoad
		readPublic FuzzHostileLoad
		readMarks FuzzHostileLoad
		readRecent FuzzHostileLoad
		Load FuzzHostileLoad
	`,
	"storage": `
		ValidPath FuzzValidPath
	`,
	"storage/dir": `
		Get FuzzPaths
		List FuzzPaths
	`,
	"storage/s3": `
		list FuzzList
		validBucket FuzzPrefix
		validPrefix FuzzPrefix
		read reads with s3client.Get
	`,
	"internal/watch": `
		parseState FuzzState
		readState FuzzStateFile
		Read FuzzAnswer
		judgeStatus FuzzAnswer
		unchanged FuzzAnswer
	`,
	"testlogs": `
		open FuzzCheckpoint
		parseDataTile FuzzDataTile
		readDataTiles reads with parseDataTile
		parseCert FuzzSignedEntry
		parseExtension FuzzSignedEntry
		Check FuzzAnswer
		Roots FuzzAnswer
		fetch FuzzAnswer
		LoadCA FuzzCA
		readPEM FuzzCA
	`,
	"tiles": `
		ParsePath FuzzParsePath
		DecodeBundle FuzzDecodeBundle
		Gunzip FuzzLoad
		GunzipTile FuzzLoad
		gunzip FuzzGunzip
		parseDataTile FuzzDataTile
		Load FuzzLoad
		loadData FuzzLoad
		Entries FuzzLoad
		LeafHash FuzzLoad
		ReadFull FuzzLoad
		read FuzzLoad
		Covers FuzzLoad
		readHashTile FuzzLoad
		ReadTiles hands over hash tiles of the right length, which tlog proves
		Verify FuzzVerify
	`,
}

// fuzzed is what a package has that this policy is about.
type fuzzed struct {
	calls      map[string]map[string]bool // by function: every name in its body
	tests      map[string]bool            // functions of test files
	production map[string]bool
}

// TestEveryParserIsFuzzed holds parsers to the source.
func TestEveryParserIsFuzzed(t *testing.T) {
	t.Parallel()
	packages := map[string]*fuzzed{}
	sources(t, true, parser.SkipObjectResolution, func(pkg, path string, file *ast.File) {
		p := packages[pkg]
		if p == nil {
			p = &fuzzed{map[string]map[string]bool{}, map[string]bool{}, map[string]bool{}}
			packages[pkg] = p
		}
		p.add(file, strings.HasSuffix(path, "_test.go"))
	})
	for pkg, p := range packages {
		lines := map[string]string{}
		for line := range strings.Lines(parsers[pkg]) {
			if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				lines[name] = strings.TrimSpace(rest)
			}
		}
		p.check(t, pkg, lines)
	}
	for pkg := range parsers {
		if packages[pkg] == nil {
			t.Errorf("parsers has lines for %q, and there is no such package", pkg)
		}
	}
}

// add notes the functions of a file and the names in them.
func (p *fuzzed) add(file *ast.File, test bool) {
	for _, decl := range file.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok || d.Body == nil {
			continue
		}
		name := d.Name.Name
		if p.calls[name] == nil {
			p.calls[name] = map[string]bool{}
		}
		ast.Inspect(d.Body, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				p.calls[name][id.Name] = true
			}
			return true
		})
		if test {
			p.tests[name] = true
		} else {
			p.production[name] = true
		}
	}
}

// check compares a package with its lines.
func (p *fuzzed) check(t *testing.T, pkg string, lines map[string]string) {
	t.Helper()
	needed := map[string]bool{}
	for name, what := range lines {
		if !p.production[name] {
			t.Errorf("parsers has a line for %s.%s, and there is no such function", pkg, name)
			continue
		}
		for _, target := range strings.Fields(what) {
			if !strings.HasPrefix(target, "Fuzz") {
				break // words
			}
			if needed[target] = true; !p.tests[target] {
				t.Errorf("%s.%s: there is no %s in that package", pkg, name, target)
			} else if !p.reaches(target, name) {
				t.Errorf("%s.%s: %s does not come to it", pkg, name, target)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.production)) {
		if parserName.MatchString(name) && lines[name] == "" {
			t.Errorf("%s.%s reads something: write a fuzz target for it, and a line into parsers", pkg, name)
		}
	}
	for name := range p.tests {
		if strings.HasPrefix(name, "Fuzz") && !needed[name] {
			t.Errorf("%s.%s: no line of parsers needs it", pkg, name)
		}
		if strings.HasPrefix(name, "Fuzz") && !p.reaches(name, "Add") {
			t.Errorf("%s.%s has no seeds", pkg, name)
		}
	}
}

// reaches reports whether a function comes to a name, by the names in its body
// and in those of the functions of the package that they may mean.
func (p *fuzzed) reaches(from, to string) bool {
	seen, queue := map[string]bool{from: true}, []string{from}
	for len(queue) > 0 {
		for name := range p.calls[queue[0]] {
			if name == to {
				return true
			}
			if !seen[name] && p.calls[name] != nil {
				seen[name] = true
				queue = append(queue, name)
			}
		}
		queue = queue[1:]
	}
	return false
}
