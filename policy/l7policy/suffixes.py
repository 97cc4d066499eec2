# SPDX-License-Identifier: Apache-2.0
"""Suffixes below which anyone may get a name: ``*.co.uk`` and ``*.github.io`` allow strangers' servers.

Every top-level domain is one, but for those that never leave a network. Of the longer ones here are the usual: second
levels of countries, and what clouds and CDNs hand out. It is for a warning only: one that is missing costs a hint, and
so the whole Public Suffix List, a dependency that changes daily, is not worth having.
"""

from typing import Final

_PRIVATE: Final = (
    "arpa cluster consul corp example home internal intra intranet invalid lan local localdomain localhost onion"
    " private svc test"
)

_SECOND_LEVELS: Final = {
    "ar": "com edu gob net org",
    "at": "ac co or",
    "au": "com edu gov id net org",
    "bd": "com edu gov net org",
    "br": "com edu gov net org",
    "cn": "ac com edu gov net org",
    "co": "com edu gov net org",
    "cy": "ac com gov net org",
    "eg": "com edu gov net org",
    "es": "com edu gob nom org",
    "gr": "com edu gov net org",
    "hk": "com edu gov idv net org",
    "hu": "co info org",
    "id": "ac biz co go net or web",
    "il": "ac co gov net org",
    "in": "ac co edu firm gen gov ind net nic org res",
    "it": "edu gov",
    "jp": "ac ad co ed go gr lg ne or",
    "ke": "ac co go ne or",
    "kr": "ac co go ne or pe re",
    "mx": "com edu gob net org",
    "my": "com edu gov net org",
    "ng": "com edu gov net org",
    "nz": "ac co geek gen govt iwi net org school",
    "pe": "com edu gob net org",
    "ph": "com edu gov net org",
    "pk": "com edu gov net org",
    "pl": "com edu gov net org",
    "pt": "com edu gov org",
    "ro": "com org",
    "ru": "com msk net org spb",
    "sa": "com edu gov net org",
    "sg": "com edu gov net org per",
    "th": "ac co go in net or",
    "tr": "biz com edu gov info net org web",
    "tw": "com edu gov idv net org",
    "ua": "co com edu gov in kiev net org",
    "uk": "ac co gov ltd me net nhs org plc police sch",
    "vn": "com edu gov net org",
    "za": "ac co gov net org web",
}

_HOSTING: Final = (
    "amazonaws.com s3.amazonaws.com compute.amazonaws.com elb.amazonaws.com cloudfront.net awsapprunner.com"
    " appspot.com run.app web.app firebaseapp.com googleapis.com storage.googleapis.com googleusercontent.com"
    " azurewebsites.net blob.core.windows.net azureedge.net cloudapp.net cloudapp.azure.com azurefd.net"
    " trafficmanager.net"
    " github.io githubusercontent.com gitlab.io bitbucket.io netlify.app vercel.app now.sh pages.dev workers.dev"
    " r2.dev herokuapp.com herokudns.com fly.dev onrender.com render.com digitaloceanspaces.com ondigitalocean.app"
    " fastly.net fastlylb.net akamaized.net edgekey.net edgesuite.net akamaihd.net cdn77.org b-cdn.net"
    " ngrok.io ngrok.app ngrok-free.app trycloudflare.com loca.lt duckdns.org dyndns.org no-ip.org nip.io sslip.io"
    " blogspot.com wordpress.com readthedocs.io glitch.me repl.co replit.app surge.sh deno.dev hf.space"
    " aliyuncs.com myqcloud.com oraclecloud.com"
)

_NEVER: Final = frozenset(_PRIVATE.split())
_KNOWN: Final = frozenset(_HOSTING.split()) | {
    f"{label}.{top}" for top, labels in _SECOND_LEVELS.items() for label in labels.split()
}


def is_public(suffix: str) -> bool:
    """Whether strangers may have names below it. Lower case, no dot at the ends."""
    return suffix in _KNOWN if "." in suffix else bool(suffix) and suffix not in _NEVER
