from tests.properties import use_profile

use_profile()
