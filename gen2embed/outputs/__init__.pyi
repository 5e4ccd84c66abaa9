from .claims import claim_run_folder as claim_run_folder
from .claims import release_claims as release_claims
from .paths import check_file as check_file
from .paths import check_folder as check_folder
from .paths import replace_folder as replace_folder
from .paths import write_file as write_file
from .redacted import redact_yaml as redact_yaml
from .redacted import write_json as write_json
